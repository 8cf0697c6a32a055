"""Live video: a source is captured continuously, and the replicas that answer HTTP detect its frames."""
