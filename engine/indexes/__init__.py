"""Vector indexes: one file an engine, all held to the same contract suite."""
