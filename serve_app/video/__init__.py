"""Reading of video: sources are checked and opened, and their frames are decoded. Streams and jobs share it."""
