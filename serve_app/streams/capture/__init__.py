"""From a source to frames: checking, reading and reopening sources."""
