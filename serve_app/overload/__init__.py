"""Limits, early refusals and retries. This package imports neither HTTP libraries nor Ray."""
