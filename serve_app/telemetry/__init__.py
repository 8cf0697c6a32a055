"""Declare and record the metrics."""
