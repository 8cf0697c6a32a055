"""Decide which addresses from clients' requests are allowed: public addresses, and those in allowed networks."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from serve_app.errors import InvalidUrl

Network = IPv4Network | IPv6Network

NOT_ALLOWED = (
    "the url's host has no allowed address; use a public address, or allow its network (SERVE_APP_ALLOWED_NETWORKS)"
)
# These addresses are not public, but some or all versions of Python count them as ``is_global``. All but one are in
# IANA's registries of special-purpose addresses. 168.63.129.16 is the metadata service of Azure.
_SPECIAL: tuple[Network, ...] = (
    *map(IPv4Network, ("192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24")),
    IPv4Network("168.63.129.16/32"),
    *map(IPv6Network, ("2001::/23", "2002::/16", "2620:4f:8000::/48", "3fff::/20")),
)
# The allocated part of IPv6. Mapped, compatible and NAT64 addresses, which embed an IPv4 address, are outside of it.
_ALLOCATED = ip_network("2000::/3")
# Name resolution has its own threads, because it can take half a minute, cannot be cancelled, and would block asyncio's
# default threads.
_RESOLVERS = ThreadPoolExecutor(16, "resolve")


def networks_in(text: str | None) -> tuple[Network, ...]:
    """Return the networks in a comma-separated list. Raise ValueError, which names the network, if one is invalid."""
    return tuple(ip_network(part.strip()) for part in (text or "").split(",") if part.strip())


def addresses_of(host: str, port: int) -> list[str]:
    """Return all addresses of a host, the preferred one first.

    Raise InvalidUrl when ``host`` is not a valid name, and ``socket.gaierror`` when it has no address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError as exc:  # for example, a label of 64 letters
        raise InvalidUrl("the url has no valid host name") from exc
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True)
class AddressGuard:
    """A guard that resolves a host and checks its addresses. Callers must connect to the addresses, not to the name."""

    allowed: tuple[Network, ...] = ()  # these networks are allowed in addition to public addresses

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the host's addresses, the preferred one first.

        Raise InvalidUrl when any address is not allowed, and ``socket.gaierror`` when the host has no address.
        """
        return await asyncio.get_running_loop().run_in_executor(_RESOLVERS, self.look_up, host, port)

    def look_up(self, host: str, port: int) -> list[str]:
        """Resolve and check a host in this thread. See ``resolve``."""
        addresses = addresses_of(host, port)
        self._check(addresses)
        return addresses

    def check_literal_address(self, host: str) -> None:
        """Check a host that is a numeric address, in any notation. Raise InvalidUrl when the address is not allowed.

        Names are not resolved here. They are checked when a connection is made.
        """
        try:
            found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
        except (socket.gaierror, ValueError):
            return
        self._check([str(address[0]) for *_, address in found])

    def _check(self, addresses: list[str]) -> None:
        if not all(map(self._allows, addresses)):
            raise InvalidUrl(NOT_ALLOWED)

    def _allows(self, text: str) -> bool:
        address = ip_address(text)
        if any(address in network for network in self.allowed):
            return True
        if address.version == 6 and address not in _ALLOCATED:
            return False
        is_special = address.is_multicast or any(address in network for network in _SPECIAL)
        return address.is_global and not is_special
