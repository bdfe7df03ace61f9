"""Negatives: which negatives."""
