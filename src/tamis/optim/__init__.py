"""Optim: which updates."""
