"""Subsets: which part of the data."""

from tamis.subsets.near_duplicates import drop_near_duplicates as drop_near_duplicates
from tamis.subsets.near_duplicates import near_duplicate_pairs as near_duplicate_pairs
