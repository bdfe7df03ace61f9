"""Subsets: which part of the data."""
