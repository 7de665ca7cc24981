"""Sightline and its peers side by side: same machine, weights, pictures and queries, in one run.

`driver.py` measures, `catalogue.py` says how each peer is prepared, started and asked, `material.py` makes what all of
them are given. Each peer lives in an environment of its own, pinned in `requirements/`, because their pins exclude each
other; `adapters/` are the scripts that run there, and import nothing of ours.
"""
