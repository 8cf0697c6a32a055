"""The checks that accept only requests from this machine while no API keys are set."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from serve_app.config import AccessArgs
from serve_app.errors import ConfigError, Forbidden


def require_keys(args: AccessArgs, http_host: str | None) -> None:
    """Raise ConfigError if other machines can reach the server and no API keys are set."""
    if args.keys_file is None and not _is_loopback(http_host):
        raise ConfigError(
            f"access.keys_file: it is not set, but HTTP listens on {http_host}; set it (or SERVE_APP_KEYS_FILE) to the "
            "path of an API-key file, or set http_options.host to 127.0.0.1"
        )


def is_loopback_host(request: HTTPConnection) -> bool:
    """Return whether the client has named this machine as the host."""
    return _is_loopback(_host(f"//{request.headers.get('host', '')}"))


def check_local(request: HTTPConnection, origins: Collection[str]) -> None:
    """Raise Forbidden if another site's web page may have made a browser send the request.

    Any web page that is open in a browser on this machine can send requests to the server. The page's host name can
    point to 127.0.0.1 (DNS rebinding), or the page can send a cross-site request. Pages with one of the ``origins`` may
    send requests.
    """
    if not is_loopback_host(request):
        raise Forbidden(
            "access.keys_file: it is not set, so only requests to localhost are accepted; set it and send an API key"
        )
    origin = request.headers.get("origin")
    if request.scope["type"] == "websocket":  # only Sec-Fetch-Site tells pages of other ports, and it may be missing
        is_foreign = origin is not None and not is_own_origin(request)
    else:
        is_foreign = origin is not None and not _is_loopback(_host(origin))
    if origin not in origins and (is_of_other_site(request) or is_foreign):
        raise Forbidden(
            "access.keys_file: it is not set, so cross-origin browser requests are refused; set it and send an API "
            "key, or add the page's origin to cors.origins"
        )


def check_no_page(request: HTTPConnection, origins: Collection[str]) -> None:
    """Raise Forbidden if a web page may have made a browser send the request, unless it has one of the ``origins``.

    The request has no API key, and is accepted because of its address. A browser at this address must not let any web
    page use the server.
    """
    origin = request.headers.get("origin")
    if origin not in origins and (is_of_other_site(request) or origin is not None):
        raise Forbidden("a request from a web page needs an API key; send one, or add its origin to cors.origins")


def is_own_origin(request: HTTPConnection) -> bool:
    """Return whether ``Origin`` names the host and the port to which the request was sent."""
    try:
        host = urlsplit(request.headers.get("origin", "")).netloc
    except ValueError:
        return False
    return bool(host) and host.lower() == request.headers.get("host", "").lower()


def is_of_other_site(request: HTTPConnection) -> bool:
    """Return whether ``Sec-Fetch-Site``, which only browsers send, says that another site made the request.

    For a GET without CORS, such as the request of an ``<img>``, a browser sends no ``Origin``. Only this header then
    shows that the request is cross-site.
    """
    return request.headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"
