"""Compression: which weights and bits."""
