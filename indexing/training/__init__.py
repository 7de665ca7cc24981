"""Training the small model that ships with the project, on scenes that it draws itself.

`pool` draws the pictures, `lessons` turns them into batches with captions and near misses, `tower` is the model
and its teaching heads, `loss` what it is taught, and `trainer` the loop: seeded, resumable, on CPU or CUDA.
"""
