"""Where a stream's results go: followers, sinks and recordings."""
