"""The checks that accept only requests from this machine while no API keys are set."""

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
            f"access.keys_file: it is not set, but HTTP listens on {http_host}; set it (or SERVE_APP_KEYS_FILE) to the "
            "path of an API-key file, or set http_options.host to 127.0.0.1"
        )


def check_local(request: HTTPConnection) -> None:
    """Raise Forbidden if another site's web page may have made a browser send the request.

    Any web page that is open in a browser on this machine can send requests to the server. The page's host name can
    point to 127.0.0.1 (DNS rebinding), or the page can send a cross-site request. For a GET without CORS, such as the
    request of an ``<img>``, a browser sends no ``Origin``. Only ``Sec-Fetch-Site`` then shows that the request is
    cross-site.
    """
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "none")  # only browsers send this header
    if not _is_loopback(_host(f"//{request.headers.get('host', '')}")):
        raise Forbidden(
            "access.keys_file: it is not set, so only requests to localhost are accepted; set it and send an API key"
        )
    if site not in {"same-origin", "none"} or (origin is not None and not _is_loopback(_host(origin))):
        raise Forbidden(
            "access.keys_file: it is not set, so cross-origin browser requests are refused; set it and send an API key"
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
