"""The check whether a service could listen on a port."""

from __future__ import annotations

import errno
import socket

from serve_app.errors import ConfigError

_ADDRESS_ERRORS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def check_port(host: str, port: int | str, setting: str) -> None:
    """Raise ConfigError if the service could not listen on this port."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        # We prefer an IPv4 address, as configs/haproxy.py does.
        family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address[0], int(port)))
    except (OSError, OverflowError, ValueError) as exc:
        if isinstance(exc, socket.gaierror) or (isinstance(exc, OSError) and exc.errno in _ADDRESS_ERRORS):
            raise ConfigError(
                f"http_options.host: {host} is not an address of this machine: set an address of this machine, such as "
                "127.0.0.1"
            ) from exc
        raise ConfigError(f"{setting}: port {port} of {host} is in use or not allowed: set another port") from exc
