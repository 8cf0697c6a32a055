"""All code that imports Ray: the deployments, the stream actor, and the adapters to Ray's own interfaces."""
