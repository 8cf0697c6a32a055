"""Decode images, fit them into the model input, and map boxes back. This package imports neither models nor Ray."""
