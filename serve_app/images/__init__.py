"""Bytes to pixels to model input, and boxes back. This package knows neither models nor Ray."""
