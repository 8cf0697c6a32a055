"""ASGI middleware that runs before Ray Serve reads a request.

configs/serve.env enables it with RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH.
"""

from __future__ import annotations

import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.deployments.half_closed import answer_half_closed

# Serve obeys these headers from any client. With them, a client could change our deadline, or keep its request running
# after it has disconnected.
_SERVE_HEADERS = re.compile(
    rb"x-request-timeout-seconds|x-request-disconnect-disabled|serve[-_]multiplexed[-_]model[-_]id|x[-_]session[-_]id"
)
_ID_HEADERS = {b"x-request-id", b"traceparent", b"tracestate"}
_PRINTABLE = re.compile(rb"[\x20-\x7e]{1,512}")  # Serve answers other values with 500, or copies them into its log


def middlewares() -> list[Middleware]:
    """Return our middleware. Serve calls this function in each process that listens for HTTP."""
    answer_half_closed()
    return [Middleware(CleanHeaders)]


class CleanHeaders:
    """ASGI middleware that removes the headers that control Serve.

    It also removes an X-Request-ID, traceparent or tracestate header if its value is not printable.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on without the headers described above."""
        if "headers" in scope:
            scope["headers"] = [header for header in scope["headers"] if _is_clean(*header)]
        await self._app(scope, receive, send)


def _is_clean(name: bytes, value: bytes) -> bool:
    if name in _ID_HEADERS:
        return _PRINTABLE.fullmatch(value) is not None
    return name.isascii() and _SERVE_HEADERS.fullmatch(name) is None
