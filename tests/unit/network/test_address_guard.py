from __future__ import annotations

import asyncio
import socket
import threading
from ipaddress import ip_network

import pytest
from anyio import wait_all_tasks_blocked

from serve_app.errors import InvalidUrl
from serve_app.network.address_guard import AddressGuard
from tests.support.traps import Names

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.254", "127.0.0.1", "127.255.255.255",
        "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.0.200",
        "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
        "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::1.2.3.4",
        "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808",
        "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "2002:7f00:1::",
        "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
        "ff0e::1",
    ],
)  # fmt: skip
async def test_an_address_that_is_not_public_is_refused(address: str, names: Names) -> None:
    names.known["some.test"] = [[address]]
    with pytest.raises(InvalidUrl):
        await AddressGuard().resolve("some.test", 80)
    with pytest.raises(InvalidUrl):
        AddressGuard().check_literal_address(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "223.255.255.255", "2606:4700::1111", "2a00::1"]
)
async def test_a_public_address_is_allowed(address: str, names: Names) -> None:
    names.known["some.test"] = [[address]]
    assert await AddressGuard().resolve("some.test", 80) == [address]
    AddressGuard().check_literal_address(address)


async def test_allowed_networks_add_only_their_own_addresses(names: Names) -> None:
    guard = AddressGuard((ip_network("10.1.0.0/16"), ip_network("fd00::/64")))
    names.known |= {"in.test": [["10.1.2.3", "fd00::7"]], "out.test": [["10.2.0.1"]], "six.test": [["fd00:0:0:1::7"]]}
    assert await guard.resolve("in.test", 80) == ["10.1.2.3", "fd00::7"]
    for name in ("out.test", "six.test"):
        with pytest.raises(InvalidUrl):
            await guard.resolve(name, 80)


async def test_slow_name_resolution_does_not_block_other_threads(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    names.known["slow.test"] = [["10.0.0.1"]]
    answer, asked = threading.Event(), socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: answer.wait() and asked(*args, **options))
    slow = [asyncio.create_task(AddressGuard().resolve("slow.test", 80)) for _ in range(100)]
    await wait_all_tasks_blocked()
    try:
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(lambda: "read") == "read"
    finally:
        answer.set()
        outcomes = await asyncio.gather(*slow, return_exceptions=True)
    assert all(isinstance(outcome, InvalidUrl) for outcome in outcomes)
