"""Losses: how much each counts."""
