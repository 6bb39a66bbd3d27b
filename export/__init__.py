"""Exported models: graphs that run without this package, and what they lose."""
