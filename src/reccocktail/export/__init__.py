"""Adapters and merged models as files that other programs load."""
