"""The outputs of a stream: events for clients, sinks and recordings."""
