"""What happens in a stream from frame to frame: motion, tracks, zones and lines."""
