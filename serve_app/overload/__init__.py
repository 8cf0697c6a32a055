"""Limits, early refusals and retries. This package knows neither HTTP nor Ray."""
