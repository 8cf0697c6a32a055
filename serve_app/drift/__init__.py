"""Drift: what images and detections usually look like, and whether they look different now."""
