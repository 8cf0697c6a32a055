"""Everything that a stream remembers from frame to frame: motion, tracks, zones and lines."""
