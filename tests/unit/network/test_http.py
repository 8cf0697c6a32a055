"""Whatever address a client names is reached through guards only: real servers, real sockets, a resolver that lies."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest
from anyio import wait_all_tasks_blocked

from serve_app.api import url_fetcher as fetching
from serve_app.api.url_fetcher import Fetcher
from serve_app.errors import InvalidUrl, Overloaded, RateLimited, ServeAppError, TooLarge, Unfetchable
from serve_app.network.address_guard import Guard
from serve_app.network.http import GuardedHttp, NoAnswer
from tests.support.traps import Names, Trap, trap

pytestmark = pytest.mark.anyio
MAX_BYTES = 100_000
OPEN = "127.0.0.2"  # all of 127.0.0.0/8 is this machine: one address of it is allowed here, the others are not
ALLOWED = Guard((ip_network(OPEN),))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.fixture(autouse=True)
def _no_real_resolver(names: Names) -> None:
    """Not even by mistake."""


@pytest.fixture
def forbidden() -> Iterator[Trap]:
    with trap() as it:
        yield it


class Server:
    """Answers each path with the bytes that a test gives it; remembers what it was asked, and by how many."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.connections = 0
        self.names: list[str | None] = []  # that TLS clients asked for
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, OPEN, 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://{OPEN}:{self.port}"

    async def stop(self) -> None:
        self.gate.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head.decode())
                await self.gate.wait()
                path = head.split()[1].decode().partition("?")[0]
                writer.write(self.answers.get(path, ok(b"picture")))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def ok(body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def to(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    await server.stop()


async def refusal(url: str, guard: Guard = ALLOWED) -> ServeAppError:
    with pytest.raises(ServeAppError) as caught:
        await Fetcher(guard, MAX_BYTES).fetch(url)
    return caught.value


# Addresses


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
        await Guard().resolve("some.test", 80)
    with pytest.raises(InvalidUrl):
        Guard().check_digits(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "223.255.255.255", "2606:4700::1111", "2a00::1"]
)
async def test_a_public_address_is_allowed(address: str, names: Names) -> None:
    names.known["some.test"] = [[address]]
    assert await Guard().resolve("some.test", 80) == [address]
    Guard().check_digits(address)


async def test_networks_that_are_allowed_open_just_themselves(names: Names) -> None:
    guard = Guard((ip_network("10.1.0.0/16"), ip_network("fd00::/64")))
    names.known |= {"in.test": [["10.1.2.3", "fd00::7"]], "out.test": [["10.2.0.1"]], "six.test": [["fd00:0:0:1::7"]]}
    assert await guard.resolve("in.test", 80) == ["10.1.2.3", "fd00::7"]
    for name in ("out.test", "six.test"):
        with pytest.raises(InvalidUrl):
            await guard.resolve(name, 80)


# Urls. ``{port}`` is the forbidden listener's; each would reach it, were it let through by one of the usual mistakes.

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
async def test_no_redirect_leads_to_a_forbidden_address(attack: str, forbidden: Trap, server: Server) -> None:
    location = ATTACKS[attack].replace("{port}", str(forbidden.port)).encode()
    server.answers["/moved"] = to("").replace(b"Location: ", b"Location: " + location)
    assert isinstance(await refusal(f"{server.url}/moved"), InvalidUrl)
    assert len(server.requests) == 1


@pytest.mark.parametrize("attack", sorted(RELATIVE))
async def test_a_relative_redirect_stays_at_its_server(attack: str, forbidden: Trap, server: Server) -> None:
    location = ATTACKS[attack].replace("{port}", str(forbidden.port))
    server.answers["/moved"] = to(location)
    try:
        assert await Fetcher(ALLOWED, MAX_BYTES).fetch(f"{server.url}/moved") == b"picture"
    except (InvalidUrl, Unfetchable):
        pass


async def test_what_a_fragment_holds_is_no_host(server: Server, forbidden: Trap) -> None:
    url = f"{server.url}#@127.0.0.1:{forbidden.port}/"
    assert await Fetcher(ALLOWED, MAX_BYTES).fetch(url) == b"picture"


async def test_a_redirect_from_an_allowed_server_to_a_forbidden_one_is_refused(server: Server) -> None:
    with trap(port=server.port) as forbidden:
        server.answers["/moved"] = to(f"http://127.0.0.1:{forbidden.port}/")
        assert isinstance(await refusal(f"{server.url}/moved"), InvalidUrl)
    assert len(server.requests) == 1


async def test_a_redirect_of_a_webhooks_kind_is_not_followed(server: Server, forbidden: Trap) -> None:
    server.answers["/moved"] = to(f"http://127.0.0.1:{forbidden.port}/", 307)
    http = GuardedHttp(ALLOWED, timeout_s=5)
    async with http.stream("POST", httpx.URL(f"{server.url}/moved"), {}, b"body") as reply:
        assert reply.status == 307


# Names


async def test_a_name_that_becomes_another_machine_is_looked_up_once_for_each_connection(
    names: Names, server: Server
) -> None:
    names.known["rebinding.test"] = [[OPEN], ["127.0.0.1"]]
    url = f"http://rebinding.test:{server.port}/"
    with trap(port=server.port):
        assert await Fetcher(ALLOWED, MAX_BYTES).fetch(url) == b"picture"
        assert names.asked == ["rebinding.test"]
        assert isinstance(await refusal(url), InvalidUrl)
    assert (server.connections, f"Host: rebinding.test:{server.port}" in server.requests[0]) == (1, True)


@pytest.mark.parametrize("addresses", [[OPEN, "127.0.0.1"], ["127.0.0.1", OPEN], [OPEN, "8.8.8.8", "::1"]])
async def test_a_name_with_a_forbidden_address_among_others_is_refused(
    addresses: list[str], names: Names, server: Server
) -> None:
    names.known["both.test"] = [addresses]
    with trap(port=server.port):
        assert isinstance(await refusal(f"http://both.test:{server.port}/"), InvalidUrl)
    assert server.connections == 0


async def test_a_name_that_does_not_exist_is_answered_as_one_inside(names: Names) -> None:
    names.known["inside.test"] = [["10.0.0.1"]]
    inside, missing = await refusal("http://inside.test/"), await refusal("http://missing.test/")
    assert (inside.code, inside.detail) == (missing.code, missing.detail)
    assert "10.0" not in inside.detail


async def test_names_that_take_long_hold_up_nothing_else(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    names.known["slow.test"] = [["10.0.0.1"]]
    answer, asked = threading.Event(), socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: answer.wait() and asked(*args, **options))
    slow = [asyncio.create_task(Guard().resolve("slow.test", 80)) for _ in range(100)]
    await wait_all_tasks_blocked()
    try:
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(lambda: "read") == "read"
    finally:
        answer.set()
        outcomes = await asyncio.gather(*slow, return_exceptions=True)
    assert all(isinstance(outcome, InvalidUrl) for outcome in outcomes)


async def test_the_next_address_is_tried_where_one_is_dead(names: Names, server: Server) -> None:
    names.known["two.test"] = [["127.0.0.3", OPEN]]
    guard = Guard((ip_network("127.0.0.2/31"),))
    assert await Fetcher(guard, MAX_BYTES).fetch(f"http://two.test:{server.port}/") == b"picture"


async def test_names_at_one_address_share_no_connection(names: Names, server: Server) -> None:
    names.known |= {"one.test": [[OPEN]], "two.test": [[OPEN]]}
    http = GuardedHttp(ALLOWED, timeout_s=5, kept=5)
    for name in ("one.test", "one.test", "two.test"):
        async with http.stream("GET", httpx.URL(f"http://{name}:{server.port}/"), {}) as reply:
            await reply.read(MAX_BYTES)
    await http.close()
    assert (len(server.requests), server.connections) == (3, 2)


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """One that nobody vouches for, of camera.test; its key is beside it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl is installed here")
    path = tmp_path / "certificate.pem"
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    of = ["-subj", "/CN=test", "-addext", "subjectAltName=DNS:camera.test"]
    command = [openssl, "req", *kind, *of, "-out", str(path), "-keyout", str(path.with_suffix(".key"))]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


@pytest.fixture
async def tls_server(certificate: Path, names: Names) -> AsyncIterator[Server]:
    names.known |= {"camera.test": [[OPEN]], "other.test": [[OPEN]]}
    server = Server()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
    tls.sni_callback = lambda _socket, name, _context: server.names.append(name)
    await server.start(tls)
    yield server
    await server.stop()


async def test_tls_is_verified_for_the_name_though_the_address_is_pinned(
    tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetcher = Fetcher(ALLOWED, MAX_BYTES)
    assert await fetcher.fetch(f"https://camera.test:{tls_server.port}/") == b"picture"
    for host in ("other.test", OPEN):
        with pytest.raises(Unfetchable):
            await fetcher.fetch(f"https://{host}:{tls_server.port}/")
    assert tls_server.names == ["camera.test", "other.test", None]
    assert len(tls_server.requests) == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused(tls_server: Server) -> None:
    assert isinstance(await refusal(f"https://camera.test:{tls_server.port}/"), Unfetchable)
    assert tls_server.requests == []


# What is fetched


async def test_a_picture_is_fetched_with_nothing_that_is_ours(server: Server) -> None:
    server.answers["/a.jpg"] = ok(b"picture", "Set-Cookie: a=b\r\n")
    fetcher = Fetcher(ALLOWED, MAX_BYTES)
    for _ in range(2):
        assert await fetcher.fetch(f"{server.url}/a.jpg?size=1") == b"picture"
    first, *headers = server.requests[1].strip().split("\r\n")
    assert first == "GET /a.jpg?size=1 HTTP/1.1"
    assert dict(header.split(": ", 1) for header in headers) == {
        "Host": f"{OPEN}:{server.port}", "User-Agent": "sightline", "Accept": "image/*", "Accept-Encoding": "identity"
    }  # fmt: skip


async def test_no_proxy_of_the_environments_is_asked(
    server: Server, forbidden: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{forbidden.port}")
    monkeypatch.delenv("NO_PROXY")
    assert await Fetcher(ALLOWED, MAX_BYTES).fetch(server.url) == b"picture"


async def test_three_redirects_are_followed_and_no_more(server: Server) -> None:
    server.answers |= {
        "/3": to("/2", 301), "/2": to(f"{server.url}/1", 307), "/1": to("1/../0", 303), "/4": to("/3", 308)
    }  # fmt: skip
    assert await Fetcher(ALLOWED, MAX_BYTES).fetch(f"{server.url}/3") == b"picture"
    assert isinstance(await refusal(f"{server.url}/4"), Unfetchable)


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 305, 400, 401, 404, 500, 503])
async def test_only_an_answer_of_200_is_a_picture(status: int, server: Server) -> None:
    server.answers["/a"] = f"HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n".encode()
    error = await refusal(f"{server.url}/a")
    assert (error.status_code, error.code) == (422, "unfetchable")
    assert error.detail == f"the url's server answers {status}"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ok(b"x", "Content-Encoding: gzip\r\n"), id="compressed"),
        pytest.param(ok(b"x", "Content-Encoding: identity, br\r\n"), id="compressed, too"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", id="compressed on the way"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n", id="endless headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, id="an endless header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 200_000, id="an endless chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", id="two lengths"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", id="another protocol"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="no HTTP"),
    ],
)
async def test_an_answer_that_is_no_plain_file_is_refused(
    answer: bytes, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT_S", 0.5)
    server.answers["/a"] = answer
    assert isinstance(await refusal(f"{server.url}/a"), Unfetchable)


@pytest.mark.parametrize(
    "head", ["Content-Length: 100000000", "Transfer-Encoding: chunked", "Connection: close"], ids=lambda head: head[:8]
)
async def test_a_picture_is_limited_while_it_is_read(head: str, server: Server) -> None:
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    server.answers["/a"] = f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + 100 * chunk
    error = await refusal(f"{server.url}/a")
    assert isinstance(error, TooLarge)
    assert error.limit == "limits.max_body_mib"
    assert error.detail.startswith("limits.max_body_mib: ")


async def test_a_picture_that_comes_byte_by_byte_is_given_up(server: Server) -> None:
    """Each byte costs as much as a whole chunk does."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.answers |= {
        "/bytes": chunked + 1000 * b"1\r\nx\r\n" + b"0\r\n\r\n",
        "/tail": chunked + b"2000\r\n" + bytes(0x2000) + b"\r\n" + 2000 * b"1\r\nx\r\n" + b"0\r\n\r\n",
        "/few": chunked + 100 * b"1\r\nx\r\n" + b"0\r\n\r\n",
        "/large": chunked + 300 * (b"100\r\n" + bytes(256) + b"\r\n") + b"0\r\n\r\n",
    }
    for path in ("/bytes", "/tail"):
        error = await refusal(f"{server.url}{path}")
        assert isinstance(error, Unfetchable)
        assert "too small" in error.detail
    for path, size in (("/few", 100), ("/large", 300 * 256)):
        assert len(await Fetcher(ALLOWED, MAX_BYTES).fetch(f"{server.url}{path}")) == size


async def test_a_picture_of_just_the_limit_is_fetched(server: Server) -> None:
    server.answers |= {"/limit": ok(bytes(MAX_BYTES)), "/over": ok(bytes(MAX_BYTES + 1))}
    assert len(await Fetcher(ALLOWED, MAX_BYTES).fetch(f"{server.url}/limit")) == MAX_BYTES
    assert isinstance(await refusal(f"{server.url}/over"), TooLarge)


async def test_a_server_that_falls_silent_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT_S", 0.2)
    server.answers["/a"] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx"
    assert isinstance(await refusal(f"{server.url}/a"), Unfetchable)


async def test_a_closed_port_is_answered_as_a_silent_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT_S", 0.2)
    server.gate.clear()
    silent = await refusal(server.url)
    with socket.create_server((OPEN, 0)) as closed:
        port = closed.getsockname()[1]
    assert (await refusal(f"http://{OPEN}:{port}/")).detail == silent.detail


async def test_an_answer_that_never_begins_is_bounded_by_the_callers_time(server: Server) -> None:
    server.answers["/a"] = b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await Fetcher(ALLOWED, MAX_BYTES).fetch(f"{server.url}/a")


async def test_more_fetches_at_once_than_are_bearable_are_refused_at_once(server: Server) -> None:
    server.gate.clear()
    fetcher = Fetcher(ALLOWED, MAX_BYTES)
    fetches = [asyncio.create_task(fetcher.fetch(server.url)) for _ in range(fetching._FETCHES_AT_ONCE)]
    await wait_all_tasks_blocked()
    with pytest.raises(Overloaded, match=r"^url_fetches: 16 pictures") as refused:
        await fetcher.fetch(server.url)
    assert refused.value.limit == "url_fetches"
    server.gate.set()
    assert await asyncio.gather(*fetches) == [b"picture"] * len(fetches)
    assert await fetcher.fetch(server.url) == b"picture"


async def test_one_keys_fetches_leave_room_for_anothers(server: Server) -> None:
    server.gate.clear()
    fetcher = Fetcher(ALLOWED, MAX_BYTES)
    fetches = [asyncio.create_task(fetcher.fetch(server.url, "dock")) for _ in range(fetching._FETCHES_OF_A_KEY)]
    await wait_all_tasks_blocked()
    with pytest.raises(RateLimited, match=r"^url_fetches_per_key: 4 pictures") as refused:
        await fetcher.fetch(server.url, "dock")
    assert refused.value.limit == "url_fetches_per_key"
    fetches.append(asyncio.create_task(fetcher.fetch(server.url, "yard")))
    server.gate.set()
    assert await asyncio.gather(*fetches) == [b"picture"] * len(fetches)
    assert await fetcher.fetch(server.url, "dock") == b"picture"
    assert not fetcher._in_flight


async def test_a_fetch_that_is_given_up_leaves_its_place(server: Server) -> None:
    server.gate.clear()
    fetcher = Fetcher(ALLOWED, MAX_BYTES)
    for _ in range(fetching._FETCHES_AT_ONCE + 1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await fetcher.fetch(server.url)
    server.gate.set()
    assert await fetcher.fetch(server.url) == b"picture"


async def test_no_log_and_no_error_holds_the_urls_secrets(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers |= {"/hunter2": to("/a?key=hunter2"), "/a": b"HTTP/1.1 404 Not\r\nContent-Length: 0\r\n\r\n"}
    errors = [
        await refusal(f"{server.url}/hunter2?key=hunter2"),
        await refusal(f"http://me:hunter2@{OPEN}:{server.port}/"),
        await refusal("http://10.0.0.1/hunter2"),
        await refusal("http://127.0.0.1:hunter2/"),
    ]
    assert "hunter2" not in caplog.text + "".join(error.detail for error in errors)


async def test_credentials_of_a_webhook_are_basic_ones(server: Server) -> None:
    http = GuardedHttp(ALLOWED, timeout_s=5)
    url = httpx.URL(f"http://me:hunter%3A2@{OPEN}:{server.port}/")
    async with http.stream("POST", url, {}, b"") as reply:
        assert reply.status == 200
    assert httpx.BasicAuth("me", "hunter:2")._auth_header in server.requests[0]
    assert "@" not in server.requests[0]


async def test_a_step_that_takes_too_long_says_so(server: Server) -> None:
    server.gate.clear()
    http = GuardedHttp(ALLOWED, timeout_s=0.2)
    with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
        async with http.stream("GET", httpx.URL(server.url), {}):
            pass
