"""The HTTP interface: FastAPI routes in front of the model graph and the streams.

This package does not import Ray or ``serve_app.models``.
"""
