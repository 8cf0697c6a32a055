"""A source to frames: which sources are allowed, how they are read, and how they are reopened."""
