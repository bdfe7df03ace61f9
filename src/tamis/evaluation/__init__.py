"""Evaluation: what to test on."""
