"""What the routes of another server's protocol have in common: how clients send API keys, and how errors look."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Literal

from starlette.requests import HTTPConnection

from serve_app.errors import ServeAppError
from serve_app.network.address_guard import Network
from serve_app.types import Json

# Where clients can put an API key, besides the header ``Authorization: Bearer``. ``basic`` is the password of HTTP
# Basic authentication. The other places are the parameter ``api_key`` of the query, the field ``api_key`` of a
# multipart form, and the field ``api_key`` of a JSON object.
KeyPlace = Literal["basic", "query", "form", "json"]
_BEHIND_HAPROXY = os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"  # Ray's flag, which configs/serve.env sets
_CLIENT_PREFIX = 64  # bits; RFC 4291 gives an interface the other 64


@dataclass(frozen=True)
class Protocol:
    """The protocol of another server. A ``Router`` names it, and then it applies to all of the router's routes."""

    name: str  # the name of the protocol's section in the settings, below ``compat``
    # Returns the status code and the JSON of an error, from the error and the request's id.
    error: Callable[[ServeAppError, str], tuple[int, Json]]
    key_places: frozenset[KeyPlace] = frozenset()
    allow_from: tuple[Network, ...] = ()  # if API keys are configured, clients in these networks need none
    prefixes: tuple[str, ...] = ()  # of the protocol's paths, such as /v2; unknown paths below them also belong to it
    lacks: str = ""  # what the protocol has and this server lacks, for the error of an unknown path

    @property
    def body_place(self) -> KeyPlace | None:
        """The place in the body in which a key may be."""
        return next((place for place in ("form", "json") if place in self.key_places), None)

    def admits(self, request: HTTPConnection) -> bool:
        """Return whether the client needs no API key.

        Our HAProxy adds its client's address to the header ``X-Forwarded-For``, and so do other proxies. All of these
        addresses must be in ``allow_from``, because a client can send the header, too. The connection itself may come
        from this machine only if HAProxy is enabled, which then made the connection and added the header.
        """
        if not self.allow_from:
            return False
        forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
        try:
            addresses = [_address(hop.strip()) for hop in forwarded.split(",") if forwarded]
            peer = _address(request.client.host if request.client else "")
        except ValueError:
            return False
        if not (_BEHIND_HAPROXY and addresses and peer.is_loopback):
            addresses.append(peer)
        return all(any(address in network for network in self.allow_from) for address in addresses)


def client_of(request: HTTPConnection) -> str:
    """Return the client's address, for fairness only, because a client without HAProxy can claim any address.

    HAProxy, which may run on another node, adds its client's address as the last one. A client of IPv6 often has a
    whole network of addresses, so its network is returned.
    """
    text = request.client.host if request.client else ""
    if _BEHIND_HAPROXY and (forwarded := request.headers.getlist("x-forwarded-for")):
        text = forwarded[-1].rpartition(",")[2].strip()
    try:
        address = _address(text)
    except ValueError:
        return ""
    return str(address if address.version == 4 else ip_network((address, _CLIENT_PREFIX), strict=False))


def _address(text: str) -> IPv4Address | IPv6Address:
    """Return an address. A socket for both versions of IP shows IPv4 addresses as IPv6 addresses."""
    address = ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address
