"""Logs and metrics: a leaf that everything may import and that imports nothing of Sightline."""
