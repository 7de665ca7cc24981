"""Offline work: reading sources, decoding, building generations, drawing scenes, training and judging models."""
