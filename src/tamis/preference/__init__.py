"""Preference: which answers to push."""
