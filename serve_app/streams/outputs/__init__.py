"""The outputs of a stream: events for clients, and recordings."""
