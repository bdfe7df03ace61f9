"""Adapters: the only place that knows other frameworks."""
