"""Inference: which answers to sample."""
