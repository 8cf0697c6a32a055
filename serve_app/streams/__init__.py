"""Live video: a source is captured continuously and its frames are detected by the same replicas as HTTP's."""
