"""The JSON of requests and responses.

A client of the HTTP interface needs only this package, ``serve_app.types`` and ``serve_app.errors``.
"""
