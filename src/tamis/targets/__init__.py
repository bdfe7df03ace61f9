"""Targets: what counts as positive."""
