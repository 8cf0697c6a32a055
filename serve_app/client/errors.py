"""The errors that the client raises.

SightlineError
|- ConnectionFailed     no response: no server listens at the URL, the connection failed, or the timeout expired
|  `- ClientClosed      the client has been closed
`- ApiError             the server responded with an error
   |- NotFoundError     404: no stream or job has this id
   `- ConflictError     409: the id is taken, or the state of a job does not allow the request
"""

from __future__ import annotations

_RETRYABLE = frozenset({429, 502, 503, 504})  # the cause is a limit, a replica or a proxy, not the request


class SightlineError(Exception):
    """The base class of all errors that the client raises on purpose."""

    is_retryable = False  # whether the same request may succeed later


class ConnectionFailed(SightlineError):
    """The server did not respond. The server may still have processed the request."""

    is_retryable = True


class ClientClosed(ConnectionFailed):
    """The client has been closed, so nothing was sent."""

    is_retryable = False


class ApiError(SightlineError):
    """The server responded with an error. ``detail`` is the text of the error."""

    def __init__(
        self,
        detail: str,
        code: str,
        status_code: int,
        retry_after_s: int | None = None,
        limit: str | None = None,
        request_id: str = "",
    ) -> None:
        # The base class gets every argument, because pickle recreates the error from these arguments.
        super().__init__(detail, code, status_code, retry_after_s, limit, request_id)
        self.detail = detail
        self.code = code  # a code from the documentation's table of errors, such as "not_an_image"
        self.status_code = status_code
        self.retry_after_s = retry_after_s  # how long the server asks the client to wait
        self.limit = limit  # the server's limit that was reached, or None
        self.request_id = request_id  # identifies the request in the server's log
        self.is_retryable = status_code in _RETRYABLE

    def __str__(self) -> str:
        return self.detail


class NotFoundError(ApiError):
    """No stream or job has this id."""


class ConflictError(ApiError):
    """The id is taken, or the state of a job does not allow the request."""
