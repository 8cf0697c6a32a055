"""Answer only this machine's own requests where there are no API keys."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from serve_app.config import AccessArgs
from serve_app.errors import ConfigError, Forbidden


def require_keys(args: AccessArgs, http_host: str | None) -> None:
    """Raise ConfigError where other machines can reach us and no keys are set."""
    if args.keys_file is None and not _is_loopback(http_host):
        raise ConfigError(
            f"HTTP listens on {http_host}, and no API keys are set: name their file in access.keys_file "
            "(SERVE_APP_KEYS_FILE), or set http_options.host to 127.0.0.1"
        )


def check_local(request: HTTPConnection) -> None:
    """Raise Forbidden for the request of a web page elsewhere.

    A browser on this machine reaches us for any page that is open in it: under a name that the page's owner points
    here, or across sites. For a GET without CORS, as for an ``<img>``, it names no origin, and says only that it is
    across sites.
    """
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "none")  # only browsers send it
    if not _is_loopback(_host(f"//{request.headers.get('host', '')}")):
        raise Forbidden("without API keys, only requests to localhost are answered: set access.keys_file")
    if site not in {"same-origin", "none"} or (origin is not None and not _is_loopback(_host(origin))):
        raise Forbidden("without API keys, cross-origin browser requests are refused: set access.keys_file")


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
