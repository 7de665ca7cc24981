"""Caches: places that remember answers, and that may forget or fail at any time."""
