"""The deployments, the stream actor, and adapters to Ray's interfaces. Other packages do not import Ray."""
