"""Metrics, their intervals, evaluation folders and the report."""
