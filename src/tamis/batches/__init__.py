"""Batches: which batch-mates."""
