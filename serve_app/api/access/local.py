"""Without API keys, only requests from this machine are accepted: the checks for that."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from serve_app.config import AccessArgs
from serve_app.errors import ConfigError, Forbidden


def require_keys(args: AccessArgs, http_host: str | None) -> None:
    """Raise ConfigError if other machines can reach the server and no API keys are set."""
    if args.keys_file is None and not _is_loopback(http_host):
        raise ConfigError(
            f"access.keys_file: HTTP listens on {http_host} without API keys; set it (SERVE_APP_KEYS_FILE) to an "
            "API-key file, or set http_options.host to 127.0.0.1"
        )


def check_local(request: HTTPConnection) -> None:
    """Raise Forbidden if a browser sends the request for a web page of another site.

    Any page that is open in a browser on this machine can reach the server: by a host name that its owner points to
    127.0.0.1 (DNS rebinding), or by a cross-site request. A browser sends no ``Origin`` with a GET without CORS, such
    as that of an ``<img>``; only ``Sec-Fetch-Site`` then shows that the request is cross-site.
    """
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "none")  # only browsers send this header
    if not _is_loopback(_host(f"//{request.headers.get('host', '')}")):
        raise Forbidden(
            "access.keys_file: without API keys, only requests to localhost are accepted; set it and send an API key"
        )
    if site not in {"same-origin", "none"} or (origin is not None and not _is_loopback(_host(origin))):
        raise Forbidden(
            "access.keys_file: without API keys, cross-origin browser requests are refused; set it and send an API key"
        )


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
