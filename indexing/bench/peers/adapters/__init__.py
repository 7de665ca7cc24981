"""Scripts that run in the peers' environments. They import nothing of ours, and nothing of ours imports them."""
