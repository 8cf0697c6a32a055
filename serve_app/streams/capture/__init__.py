"""Capture of frames: sources are checked, opened, read and reopened."""
