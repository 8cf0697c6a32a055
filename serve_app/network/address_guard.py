"""Which addresses the server connects to on a client's word: public ones, and those in networks that are allowed."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from serve_app.errors import InvalidUrl

Network = IPv4Network | IPv6Network

NOT_ALLOWED = "the url's host has no address that may be reached; see SERVE_APP_ALLOWED_NETWORKS"
# What ``is_global`` lets through in some version of Python, or in all: protocols' own addresses, relays, documentation
# (IANA's registries of special-purpose addresses), and the address at which Azure tells a machine its secrets.
_SPECIAL: tuple[Network, ...] = (
    *map(IPv4Network, ("192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24")),
    IPv4Network("168.63.129.16/32"),
    *map(IPv6Network, ("2001::/23", "2002::/16", "2620:4f:8000::/48", "3fff::/20")),
)
# All of IPv6 that is given out. Outside it lie the forms that hold an IPv4 address: mapped, compatible, NAT64.
_GIVEN_OUT = ip_network("2000::/3")
# Not asyncio's own threads, which others need: a name can take a resolver half a minute, and nothing cuts that short.
_RESOLVERS = ThreadPoolExecutor(16, "resolve")


def addresses_of(host: str, port: int) -> list[str]:
    """All that the host's name stands for, the best one first. Raises InvalidUrl, ``socket.gaierror``."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError as exc:  # no name at all: a label of 64 letters
        raise InvalidUrl("the url names no host") from exc
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True)
class AddressGuard:
    """Whoever connects asks it for a host's addresses, and connects to one of these, never to the name."""

    allowed: tuple[Network, ...] = ()  # besides what is public

    async def resolve(self, host: str, port: int) -> list[str]:
        """The host's addresses, the best one first. One among them that is not allowed spoils them all.

        Raises InvalidUrl, and ``socket.gaierror`` where it has none.
        """
        return await asyncio.get_running_loop().run_in_executor(_RESOLVERS, self.look_up, host, port)

    def look_up(self, host: str, port: int) -> list[str]:
        """Do the same in this thread."""
        addresses = addresses_of(host, port)
        self._check(addresses)
        return addresses

    def check_digits(self, host: str) -> None:
        """Raises InvalidUrl for an address in digits, however they are written, that is not allowed. What a name stands
        for is known when somebody connects."""
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
        if address.version == 6 and address not in _GIVEN_OUT:
            return False
        is_special = address.is_multicast or any(address in network for network in _SPECIAL)
        return address.is_global and not is_special
