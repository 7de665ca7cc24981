"""Benchmarks: each module measures one thing against another in one run, and answers with a `Report`."""
