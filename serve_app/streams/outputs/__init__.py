"""The receivers of a stream's results: following clients, sinks and recordings."""
