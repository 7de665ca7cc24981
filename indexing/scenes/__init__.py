"""Drawn scenes: pictures whose contents are known exactly, so that search can be judged.

No photographs can be shipped with the project, so it draws its own. `vocabulary` names what a
scene may hold, `scene` samples one from a seed, `render` draws it, `captions` says it in words and
knows which scenes a sentence fits, and `dataset` writes pictures and their ground truth to a folder.
"""
