"""Use the proxies that environment variables set: ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``."""

from __future__ import annotations

import base64
import os
import socket
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

_DEFAULT_PORT = 3128  # the default port of Squid


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy. Its ``name`` contains no credentials."""

    host: str
    port: int
    name: str
    headers: dict[str, str]  # to send with requests to the proxy


class TunnelRefused(Exception):
    """The proxy refused a CONNECT request. ``status`` is the answer's HTTP status, or 0 when the answer is not HTTP."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def proxy_for(scheme: str, host: str, port: int, addresses: list[str]) -> Proxy | None:
    """Return the proxy for a host, or None to connect directly.

    ``addresses``: the addresses to which this machine resolves ``host``. Hosts in private networks are reached
    directly, because a camera in the local network is not behind the proxy. Raise ValueError, with the name of the
    environment variable, when it names something other than an HTTP proxy.
    """
    proxies = getproxies_environment()
    variable = f"{scheme}_proxy" if proxies.get(scheme) else "all_proxy"
    text = proxies.get(variable.removesuffix("_proxy"))
    if not text or not all(ip_address(address).is_global for address in addresses):
        return None
    if proxy_bypass(f"{host}:{port}", proxies):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        number, is_http = parts.port or _DEFAULT_PORT, parts.scheme == "http"
    except ValueError:  # the port is not a number, or an IPv6 address is not valid
        is_http = False
    if not is_http or not parts.hostname:
        raise ValueError(variable if os.environ.get(variable) else variable.upper())
    headers = {}
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
    return Proxy(parts.hostname, number, f"http://{parts.hostname}:{number}", headers)


def tunnel(connection: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Ask the proxy at the other end of ``connection`` to connect to a host.

    Raise TunnelRefused when the proxy refuses, and OSError when the connection fails.
    """
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [
        f"CONNECT {target} HTTP/1.1",
        f"Host: {target}",
        *(f"{key}: {proxy.headers[key]}" for key in proxy.headers),
    ]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    response = HTTPResponse(connection, method="CONNECT")
    try:
        response.begin()
    except HTTPException as exc:
        raise TunnelRefused(0) from exc
    if response.status != 200:
        raise TunnelRefused(response.status)
