"""Capture of frames: a thread reads the source into a mailbox, and reopens the source when it fails."""
