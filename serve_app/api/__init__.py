"""The HTTP interface: FastAPI over two ports, the graph and the streams. This package knows neither Ray nor models."""
