"""Everything that imports Ray: the deployments, the stream actor, and what stands between them and Ray."""
