"""Capture of frames from sources, which are checked, opened, read and reopened."""
