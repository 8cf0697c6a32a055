"""The checks of requests with a session's cookie, which a browser sends whatever page makes the request."""

from __future__ import annotations

import hmac

from starlette.requests import HTTPConnection

from serve_app.api.access.local import is_of_other_site, is_own_origin
from serve_app.errors import Forbidden

CSRF_HEADER = "X-CSRF-Token"
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_FOREIGN = "a page of another site may not use this server's cookie; send an API key in the header Authorization"


def check_own_page(request: HTTPConnection, csrf_token: str) -> None:
    """Raise Forbidden unless one of this server's own pages has made the request.

    A request that may change something also needs the session's token, which pages of other sites cannot read. A
    browser sends no ``Sec-Fetch-Site`` to an address without TLS outside of this machine. In this case, ``Origin``
    decides. A WebSocket always has an ``Origin``, but may have no ``Sec-Fetch-Site``.
    """
    if is_of_other_site(request):
        raise Forbidden(_FOREIGN)
    is_websocket = request.scope["type"] == "websocket"
    if is_websocket or request.scope["method"] not in _SAFE_METHODS:
        _check_origin(request, always=is_websocket)
    if not is_websocket and request.scope["method"] not in _SAFE_METHODS:
        sent = request.headers.get(CSRF_HEADER, "")
        if not hmac.compare_digest(sent.encode(), csrf_token.encode()):
            raise Forbidden(
                f"{CSRF_HEADER}: a request with the session's cookie needs this header; set it to the csrf_token of "
                "GET /session"
            )


def check_sign_in(request: HTTPConnection) -> None:
    """Raise Forbidden if a page of another site may have made a browser sign in. Programs send neither header."""
    if is_of_other_site(request):
        raise Forbidden(_FOREIGN)
    if "origin" in request.headers and "sec-fetch-site" not in request.headers:
        _check_origin(request, always=True)


def _check_origin(request: HTTPConnection, *, always: bool) -> None:
    if not always and request.headers.get("sec-fetch-site") == "same-origin":
        return
    if not is_own_origin(request):
        raise Forbidden(_FOREIGN)
