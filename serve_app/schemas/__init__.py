"""The JSON of requests and responses. A client needs no more of this project than this and the errors."""
