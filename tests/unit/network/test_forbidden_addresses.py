"""Clients' urls reach only public addresses, even with unusual spellings, redirects or host names."""

from __future__ import annotations

import httpx
import pytest

from serve_app.api.url_fetcher import Fetcher
from serve_app.errors import InvalidUrl, Unfetchable
from serve_app.network.http import GuardedHttp
from tests.support.traps import Names, Trap, trap
from tests.support.web_server import ALLOWED, MAX_BYTES, OPEN, WebServer, refusal, to

pytestmark = pytest.mark.anyio


# Urls that would reach the listener at the forbidden ``{port}`` if a guard made one of the usual mistakes.
ATTACKS = {
    "loopback": "http://127.0.0.1:{port}/",
    "another loopback": "http://127.9.9.9:{port}/",
    "name of loopback": "http://localhost:{port}/",
    "name with a dot": "http://localhost.:{port}/",
    "name in capitals": "http://LOCALHOST:{port}/",
    "any address": "http://0.0.0.0:{port}/",
    "zero": "http://0:{port}/",
    "decimal": "http://2130706433:{port}/",
    "octal": "http://0177.0.0.1:{port}/",
    "octal in one": "http://017700000001:{port}/",
    "hexadecimal": "http://0x7f.0.0.1:{port}/",
    "hexadecimal in one": "http://0x7f000001:{port}/",
    "two parts": "http://127.1:{port}/",
    "three parts": "http://127.0.1:{port}/",
    "mixed": "http://0x7f.1:{port}/",
    "overflow": "http://127.0.0.257:{port}/",
    "trailing dot": "http://127.0.0.1.:{port}/",
    "full-width digits": "http://１２７.０.０.１:{port}/",
    "ideographic dots": "http://127。0。0。1:{port}/",
    "circled digits": "http://①②⑦.⓪.⓪.①:{port}/",
    "full-width name": "http://ｌｏｃａｌｈｏｓｔ:{port}/",
    "percent-encoded address": "http://%31%32%37%2e0%2e0%2e1:{port}/",
    "percent-encoded name": "http://%6c%6f%63%61%6c%68%6f%73%74:{port}/",
    "IPv6 loopback": "http://[::1]:{port}/",
    "IPv6 in full": "http://[0:0:0:0:0:0:0:1]:{port}/",
    "IPv4-mapped": "http://[::ffff:127.0.0.1]:{port}/",
    "IPv4-mapped in hexadecimal": "http://[::ffff:7f00:1]:{port}/",
    "IPv4-compatible": "http://[::127.0.0.1]:{port}/",
    "IPv4-translated": "http://[::ffff:0:127.0.0.1]:{port}/",
    "NAT64": "http://[64:ff9b::127.0.0.1]:{port}/",
    "6to4": "http://[2002:7f00:1::1]:{port}/",
    "IPv6 any": "http://[::]:{port}/",
    "zone": "http://[fe80::1%25lo]:{port}/",
    "zone of loopback": "http://[::1%25lo]:{port}/",
    "zone unescaped": "http://[::1%lo]:{port}/",
    "IPv6 without brackets": "http://::1:{port}/",
    "brackets that do not close": "http://[::1:{port}/",
    "IPv4 in brackets": "http://[127.0.0.1]:{port}/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata by IPv6": "http://[fd00:ec2::254]/latest/meta-data/",
    "metadata of Azure": "http://168.63.129.16/machine/?comp=goalstate",
    "metadata in decimal": "http://2852039166/",
    "user": "http://user@127.0.0.1:{port}/",
    "user and password": "http://user:password@127.0.0.1:{port}/",
    "host as a user": f"http://{OPEN}@127.0.0.1:{{port}}/",
    "host and port as a user": f"http://{OPEN}:80@127.0.0.1:{{port}}/",
    "two users": f"http://a@{OPEN}@127.0.0.1:{{port}}/",
    "backslash": f"http://127.0.0.1:{{port}}\\@{OPEN}/",
    "backslash before the host": "http:\\\\127.0.0.1:{port}/",
    "backslash as a user": f"http://{OPEN}\\@127.0.0.1:{{port}}/",
    "backslash in the host": f"http://127.0.0.1\\.{OPEN}:{{port}}/",
    "space": f"http://{OPEN} @127.0.0.1:{{port}}/",
    "leading space": " http://127.0.0.1:{port}/",
    "tab in the scheme": "ht\ttp://127.0.0.1:{port}/",
    "line break in the host": "http://127.0.0.1\r\n:{port}/",
    "line break in the path": "http://127.0.0.1:{port}/\r\nX: y",
    "NUL in the host": "http://127.0.0.1\0.test:{port}/",
    "long label": "http://" + "a" * 64 + ".test:{port}/",
    "empty label": "http://a..test:{port}/",
    "no host": "http:///path",
    "no host but a port": "http://:{port}/",
    "no slashes": "http:127.0.0.1:{port}/",
    "one slash": "http:/127.0.0.1:{port}/",
    "relative": "//127.0.0.1:{port}/",
    "empty": "",
    "port of none": "http://127.0.0.1:port/",
    "port 0": f"http://{OPEN}:0/",
    "port too large": f"http://{OPEN}:65617/",
    "negative port": f"http://{OPEN}:-1/",
    "scheme in capitals": "HTTP://127.0.0.1:{port}/",
    "file": "file:///etc/passwd",
    "file in capitals": "FILE:///etc/passwd",
    "file with a host": f"file://{OPEN}/etc/passwd",
    "path": "/etc/passwd",
    "ftp": "ftp://127.0.0.1:{port}/",
    "gopher": "gopher://127.0.0.1:{port}/_x",
    "data": "data:image/png;base64,AAAA",
    "websocket": "ws://127.0.0.1:{port}/",
    "unix socket": "http+unix://%2fvar%2frun%2fdocker.sock/",
    "jar": "jar:http://127.0.0.1:{port}/a!/b",
    "surrogate": f"http://{OPEN}/\ud800",
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_no_spelling_leads_to_a_forbidden_address(attack: str, forbidden: Trap) -> None:
    error = await refusal(ATTACKS[attack].replace("{port}", str(forbidden.port)))
    assert isinstance(error, InvalidUrl)
    assert (error.status_code, error.code) == (422, "invalid_url")


RELATIVE = {"empty", "path", "no host", "no slashes", "one slash", "leading space", "backslash before the host"}
NO_HEADER = {"surrogate", "tab in the scheme", "line break in the host", "line break in the path", "NUL in the host"}


@pytest.mark.parametrize("attack", sorted(ATTACKS.keys() - RELATIVE - NO_HEADER))
async def test_no_redirect_leads_to_a_forbidden_address(attack: str, forbidden: Trap, server: WebServer) -> None:
    location = ATTACKS[attack].replace("{port}", str(forbidden.port)).encode()
    server.answers["/moved"] = to("").replace(b"Location: ", b"Location: " + location)
    assert isinstance(await refusal(f"{server.url}/moved"), InvalidUrl)
    assert len(server.requests) == 1


@pytest.mark.parametrize("attack", sorted(RELATIVE))
async def test_a_relative_redirect_stays_on_its_server(attack: str, forbidden: Trap, server: WebServer) -> None:
    location = ATTACKS[attack].replace("{port}", str(forbidden.port))
    server.answers["/moved"] = to(location)
    try:
        assert await Fetcher(ALLOWED, MAX_BYTES).fetch(f"{server.url}/moved") == b"picture"
    except (InvalidUrl, Unfetchable):
        pass


async def test_a_host_in_a_fragment_is_ignored(server: WebServer, forbidden: Trap) -> None:
    url = f"{server.url}#@127.0.0.1:{forbidden.port}/"
    assert await Fetcher(ALLOWED, MAX_BYTES).fetch(url) == b"picture"


async def test_a_redirect_from_an_allowed_server_to_a_forbidden_one_is_refused(server: WebServer) -> None:
    with trap(port=server.port) as forbidden:
        server.answers["/moved"] = to(f"http://127.0.0.1:{forbidden.port}/")
        assert isinstance(await refusal(f"{server.url}/moved"), InvalidUrl)
    assert len(server.requests) == 1


async def test_a_redirect_of_a_post_request_is_not_followed(server: WebServer, forbidden: Trap) -> None:
    server.answers["/moved"] = to(f"http://127.0.0.1:{forbidden.port}/", 307)
    http = GuardedHttp(ALLOWED, timeout_s=5)
    async with http.stream("POST", httpx.URL(f"{server.url}/moved"), {}, b"body") as reply:
        assert reply.status == 307


async def test_a_name_is_resolved_once_per_connection_so_rebinding_fails(names: Names, server: WebServer) -> None:
    names.known["rebinding.test"] = [[OPEN], ["127.0.0.1"]]
    url = f"http://rebinding.test:{server.port}/"
    with trap(port=server.port):
        assert await Fetcher(ALLOWED, MAX_BYTES).fetch(url) == b"picture"
        assert names.asked == ["rebinding.test"]
        assert isinstance(await refusal(url), InvalidUrl)
    assert (server.connections, f"Host: rebinding.test:{server.port}" in server.requests[0]) == (1, True)


@pytest.mark.parametrize("addresses", [[OPEN, "127.0.0.1"], ["127.0.0.1", OPEN], [OPEN, "8.8.8.8", "::1"]])
async def test_a_name_with_a_forbidden_address_among_others_is_refused(
    addresses: list[str], names: Names, server: WebServer
) -> None:
    names.known["both.test"] = [addresses]
    with trap(port=server.port):
        assert isinstance(await refusal(f"http://both.test:{server.port}/"), InvalidUrl)
    assert server.connections == 0


async def test_a_missing_name_gets_the_same_error_as_an_internal_one(names: Names) -> None:
    names.known["inside.test"] = [["10.0.0.1"]]
    inside, missing = await refusal("http://inside.test/"), await refusal("http://missing.test/")
    assert (inside.code, inside.detail) == (missing.code, missing.detail)
    assert "10.0" not in inside.detail
