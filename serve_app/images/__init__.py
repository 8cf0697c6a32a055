"""Decode images, fit them into the model input, and map boxes back to the image.

This package imports neither ``serve_app.models`` nor Ray.
"""
