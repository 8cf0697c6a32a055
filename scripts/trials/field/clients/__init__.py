"""Cases of HTTP clients: the requests that they send, and how they use the connection."""

from scripts.trials.field.clients.cases import CASES

__all__ = ["CASES"]
