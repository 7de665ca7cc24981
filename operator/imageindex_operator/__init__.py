"""The Kubernetes operator: what an `ImageIndex` says, kept true.

One level-based reconcile looks at the resource, its children and Qdrant, decides what is next without touching
anything (`plan`), and applies it. Nothing here needs PyTorch, and nothing but `reconcile` and what it calls writes.
"""
