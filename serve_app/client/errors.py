"""What the client raises.

SightlineError
|- ConnectionFailed     no answer came: nobody listens at the url, the connection broke, or the timeout passed
|  `- ClientClosed      close() has been called before
`- ApiError             the server answered with an error
   |- NotFoundError     404: no stream has this id
   `- ConflictError     409: a stream of this id exists already
"""

from __future__ import annotations

_RETRYABLE = frozenset({429, 502, 503, 504})  # a limit, a replica or a proxy stood in the way, not the request itself


class SightlineError(Exception):
    """The base of every error that the client raises on purpose."""

    is_retryable = False  # whether the same request may succeed when it is sent again later


class ConnectionFailed(SightlineError):
    """No answer came. The server may still have worked on the request."""

    is_retryable = True


class ClientClosed(ConnectionFailed):
    """The client has been closed, so that nothing was sent."""

    is_retryable = False


class ApiError(SightlineError):
    """The server answered with an error. Its text is ``detail``."""

    def __init__(
        self,
        detail: str,
        code: str,
        status_code: int,
        retry_after_s: int | None = None,
        limit: str | None = None,
        request_id: str = "",
    ) -> None:
        # Every argument goes to the base class, because that is what survives pickling.
        super().__init__(detail, code, status_code, retry_after_s, limit, request_id)
        self.detail = detail
        self.code = code  # one of those in the README's table, such as "not_an_image"
        self.status_code = status_code
        self.retry_after_s = retry_after_s  # how long the server asks the client to wait
        self.limit = limit  # the server's setting, where the request was refused because of one
        self.request_id = request_id  # names the request in the server's log
        self.is_retryable = status_code in _RETRYABLE

    def __str__(self) -> str:
        return self.detail


class NotFoundError(ApiError):
    """No stream has this id."""


class ConflictError(ApiError):
    """A stream of this id exists already."""
