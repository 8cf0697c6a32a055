"""The state of a stream from frame to frame: motion, tracks, zones and lines."""
