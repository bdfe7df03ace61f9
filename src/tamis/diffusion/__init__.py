"""Diffusion: which noise and guidance."""
