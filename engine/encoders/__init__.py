"""Encoders: OpenCLIP's models on PyTorch, and the same models compiled for the processor."""
