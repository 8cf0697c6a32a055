"""The JSON of requests and responses. A client of the HTTP interface needs only this package, the types and errors."""
