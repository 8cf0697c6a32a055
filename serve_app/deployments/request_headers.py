"""What stands before Ray Serve's own reading of a request: configs/serve.env names it."""

from __future__ import annotations

import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.deployments.half_closed import answer_half_closed

# Serve obeys these, whoever sends them: another deadline than ours, a request that goes on when its client has gone.
_ITS_OWN = re.compile(
    rb"x-request-timeout-seconds|x-request-disconnect-disabled|serve[-_]multiplexed[-_]model[-_]id|x[-_]session[-_]id"
)
_IDENTITIES = {b"x-request-id", b"traceparent", b"tracestate"}
_SOUND = re.compile(rb"[\x20-\x7e]{1,512}")  # else Serve answers 500, or writes what it was sent into its log


def middlewares() -> list[Middleware]:
    """See Ray Serve's ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``: called in each process that listens."""
    answer_half_closed()
    return [Middleware(CleanHeaders)]


class CleanHeaders:
    """ASGI middleware: leaves out the headers that are Serve's own, and identities that are no plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes all else on."""
        if "headers" in scope:
            scope["headers"] = [header for header in scope["headers"] if _is_clean(*header)]
        await self._app(scope, receive, send)


def _is_clean(name: bytes, value: bytes) -> bool:
    if name in _IDENTITIES:
        return _SOUND.fullmatch(value) is not None
    return name.isascii() and _ITS_OWN.fullmatch(name) is None
