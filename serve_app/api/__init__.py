"""The HTTP interface: FastAPI routes in front of the model graph and the streams. It imports neither Ray nor models."""
