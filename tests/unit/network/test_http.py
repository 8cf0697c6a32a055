"""The guarded HTTP client: connections, certificates and credentials."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest

from serve_app.api.url_fetcher import Fetcher
from serve_app.errors import Unfetchable
from serve_app.network.address_guard import AddressGuard
from serve_app.network.http import GuardedHttp, NoAnswer
from tests.support.traps import Names
from tests.support.web_server import ALLOWED, MAX_BYTES, OPEN, WebServer, refusal

pytestmark = pytest.mark.anyio


async def test_the_next_address_is_tried_when_one_is_dead(names: Names, server: WebServer) -> None:
    names.known["two.test"] = [["127.0.0.3", OPEN]]
    guard = AddressGuard((ip_network("127.0.0.2/31"),))
    assert await Fetcher(guard, MAX_BYTES).fetch(f"http://two.test:{server.port}/") == b"picture"


async def test_names_with_the_same_address_share_no_connection(names: Names, server: WebServer) -> None:
    names.known |= {"one.test": [[OPEN]], "two.test": [[OPEN]]}
    http = GuardedHttp(ALLOWED, timeout_s=5, kept=5)
    for name in ("one.test", "one.test", "two.test"):
        async with http.stream("GET", httpx.URL(f"http://{name}:{server.port}/"), {}) as reply:
            await reply.read(MAX_BYTES)
    await http.close()
    assert (len(server.requests), server.connections) == (3, 2)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for camera.test, next to its key."""
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
async def tls_server(certificate: Path, names: Names) -> AsyncIterator[WebServer]:
    names.known |= {"camera.test": [[OPEN]], "other.test": [[OPEN]]}
    server = WebServer()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
    tls.sni_callback = lambda _socket, name, _context: server.names.append(name)
    await server.start(tls)
    yield server
    await server.stop()


async def test_tls_is_verified_for_the_name_although_the_address_is_pinned(
    tls_server: WebServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetcher = Fetcher(ALLOWED, MAX_BYTES)
    assert await fetcher.fetch(f"https://camera.test:{tls_server.port}/") == b"picture"
    for host in ("other.test", OPEN):
        with pytest.raises(Unfetchable):
            await fetcher.fetch(f"https://{host}:{tls_server.port}/")
    assert tls_server.names == ["camera.test", "other.test", None]
    assert len(tls_server.requests) == 1


async def test_a_self_signed_certificate_is_refused(tls_server: WebServer) -> None:
    assert isinstance(await refusal(f"https://camera.test:{tls_server.port}/"), Unfetchable)
    assert tls_server.requests == []


async def test_credentials_in_a_url_are_sent_with_basic_authentication(server: WebServer) -> None:
    http = GuardedHttp(ALLOWED, timeout_s=5)
    url = httpx.URL(f"http://me:hunter%3A2@{OPEN}:{server.port}/")
    async with http.stream("POST", url, {}, b"") as reply:
        assert reply.status == 200
    assert httpx.BasicAuth("me", "hunter:2")._auth_header in server.requests[0]
    assert "@" not in server.requests[0]


async def test_a_timeout_names_its_length(server: WebServer) -> None:
    server.gate.clear()
    http = GuardedHttp(ALLOWED, timeout_s=0.2)
    with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
        async with http.stream("GET", httpx.URL(server.url), {}):
            pass
