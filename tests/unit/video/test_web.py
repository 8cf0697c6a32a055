"""The HTTP client for sources: allowed addresses, credentials, cookies and proxies."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network

import pytest

from scripts.trials.field.videos.servers import SHOTS, Handler, Server, asks_for_credentials, sends, serving
from scripts.trials.listener import listening
from serve_app.errors import SourceDenied, SourceError, SourceGone, SourceStalled
from serve_app.network import proxies
from serve_app.network.address_guard import AddressGuard
from serve_app.video import web
from serve_app.video.source import parse_source
from serve_app.video.web import WebClient

SHOT = sends(SHOTS[0], Content_Type="image/jpeg")


def client_of(uri: str, guard: AddressGuard | None = None) -> WebClient:
    return WebClient(parse_source(uri, ()), guard or AddressGuard())


def body_of(client: WebClient, url: str) -> bytes | None:
    with closing(client.get(url)) as reply:
        return reply.read_all(1 << 20)


@pytest.fixture
def camera() -> Iterator[Server]:
    with serving({"/cam": SHOT, "/locked": asks_for_credentials("Basic", SHOT)}) as server:
        yield server


def test_only_the_sources_own_host_may_have_any_address(camera: Server) -> None:
    client = client_of(camera.url)
    assert body_of(client, f"{camera.url}/cam") == SHOTS[0]
    with pytest.raises(SourceError, match="SERVE_APP_ALLOWED_NETWORKS"):
        client.get(f"http://localhost:{camera.server_port}/cam")
    assert camera.asked == ["/cam"]


def test_other_hosts_may_be_in_allowed_networks(camera: Server) -> None:
    allowing = AddressGuard((ip_network("127.0.0.0/8"), ip_network("::1/128")))
    client = client_of(camera.url, allowing)
    assert body_of(client, f"http://localhost:{camera.server_port}/cam") == SHOTS[0]


def test_a_redirect_does_not_bypass_the_guard(camera: Server) -> None:
    there = f"http://localhost:{camera.server_port}/cam"
    with serving({"/to": sends(b"", 302, Location=there)}) as other, pytest.raises(SourceError, match="ALLOWED"):
        client_of(other.url).get(f"{other.url}/to")
    assert camera.asked == []


def test_the_sources_host_name_is_resolved_only_once(camera: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(f"http://localhost:{camera.server_port}")
    url = f"http://localhost:{camera.server_port}/cam"
    monkeypatch.setattr(web, "addresses_of", lambda host, port: ["127.0.0.1"])
    assert body_of(client, url) == SHOTS[0]
    monkeypatch.setattr(web, "addresses_of", lambda host, port: ["10.0.0.1"])
    assert body_of(client, url) == SHOTS[0]


def test_credentials_go_to_the_sources_own_server_only(camera: Server) -> None:
    with serving({"/locked": asks_for_credentials("Basic", SHOT)}) as other:
        client = client_of(camera.url.replace("//", "//admin:p%40ss%2Fword@"))
        assert body_of(client, f"{camera.url}/locked") == SHOTS[0]
        with pytest.raises(SourceDenied):
            client.get(f"{other.url}/locked")  # a server on the same host but another port


def test_a_media_servers_cookies_are_sent_only_to_that_server(camera: Server) -> None:
    def answer(handler: Handler) -> None:
        seen.append(handler.headers.get("Cookie", ""))
        sends(b"x", Set_Cookie="pass=1; Path=/")(handler)

    seen: list[str] = []
    allowing = AddressGuard((ip_network("127.0.0.0/8"), ip_network("::1/128")))
    with serving({"/a": answer}) as server:
        client = client_of(server.url, allowing)
        for url in (f"{server.url}/a", f"{server.url}/a", f"http://localhost:{server.server_port}/a"):
            body_of(client, url)
    assert seen == ["", "pass=1", ""]


def test_the_number_of_cookies_is_limited(camera: Server) -> None:
    def answer(handler: Handler) -> None:
        sends(b"x", Set_Cookie=f"a{len(asked)}=1")(handler)
        asked.append(handler.path)

    asked: list[str] = []
    with serving({"/a": answer}) as server:
        client = client_of(server.url)
        for _ in range(120):
            body_of(client, f"{server.url}/a")
    assert len(client._cookies.jar) <= 50


def test_headers_with_any_characters_are_accepted() -> None:
    head = 'HTTP/1.1 401 Nö\r\nServer: Kamera Tür €\r\nno colon\r\nWWW-Authenticate: Basic realm="Tür"\r\n\r\n'
    with (
        listening(lambda connection: connection.sendall(head.encode())) as port,
        pytest.raises(SourceDenied, match="401 Unauthorized: it refuses"),
    ):
        client_of(f"http://me:pass@127.0.0.1:{port}").get(f"http://127.0.0.1:{port}/")


def test_a_server_that_does_not_speak_http_is_reported() -> None:
    with listening(lambda connection: connection.sendall(b"SSH-2.0-x\r\n")) as port:
        with pytest.raises(SourceError, match="does not answer in HTTP"):
            client_of(f"http://127.0.0.1:{port}").get(f"http://127.0.0.1:{port}/")
        with pytest.raises(SourceError, match=r"TLS failed \(wrong version number\)"):
            client_of(f"https://127.0.0.1:{port}").get(f"https://127.0.0.1:{port}/")


def test_a_server_that_hangs_up_may_come_back() -> None:
    with listening(lambda connection: None) as port, pytest.raises(SourceGone):
        client_of(f"http://127.0.0.1:{port}").get(f"http://127.0.0.1:{port}/")


def test_a_truncated_body_is_reported(camera: Server) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    with listening(lambda connection: connection.sendall(head + bytes(50))) as port:
        reply = client_of(f"http://127.0.0.1:{port}").get(f"http://127.0.0.1:{port}/")
        with closing(reply), pytest.raises(SourceGone):
            reply.read_all(1000)


def test_a_body_that_arrives_byte_by_byte_has_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_TIMEOUT_S", 0.3)

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b".")

    with listening(drip) as port:
        reply = client_of(f"http://127.0.0.1:{port}").get(f"http://127.0.0.1:{port}/")
        with closing(reply), pytest.raises(SourceStalled):
            list(iter(lambda: reply.read(1), b""))


def relay(connection: socket.socket, port: int) -> None:
    """Copy bytes in both directions, as a proxy does after a CONNECT request."""
    with socket.create_connection(("127.0.0.1", port)) as there:

        def copy(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=copy, args=(there, connection))
        back.start()
        copy(connection, there)
        back.join()


@pytest.fixture
def proxy_for_every_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the proxy for every host. By default, requests to this machine would bypass the proxy."""
    monkeypatch.setattr(proxies, "proxy_bypass", lambda host, proxies: False)


@pytest.mark.usefixtures("proxy_for_every_host")
def test_a_public_source_is_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        seen.append(connection.recv(4096))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    with listening(answer) as port:
        monkeypatch.setenv("http_proxy", f"http://me:se%40cret@127.0.0.1:{port}")
        assert body_of(client_of("http://cam.invalid/a?b=1"), "http://cam.invalid/a?b=1") == b"hi"
    head = seen[0].decode().split("\r\n")
    assert head[0] == "GET http://cam.invalid/a?b=1 HTTP/1.1"
    assert "Host: cam.invalid" in head
    assert "Proxy-Authorization: Basic bWU6c2VAY3JldA==" in head


@pytest.mark.usefixtures("proxy_for_every_host")
@pytest.mark.parametrize("status", ["407 Nope", "403 Nope", "502 Nope"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxys_refusal_names_the_proxy(scheme: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    with listening(answer) as port:
        monkeypatch.setenv(f"{scheme}_proxy", f"127.0.0.1:{port}")
        with pytest.raises(SourceError) as refusal:
            client_of(f"{scheme}://cam.invalid/").get(f"{scheme}://cam.invalid/")
    assert f"the proxy http://127.0.0.1:{port}" in refusal.value.detail
    assert status[:3] in refusal.value.detail


@pytest.mark.usefixtures("proxy_for_every_host")
def test_a_proxy_of_an_unsupported_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(SourceError, match="no_proxy"):
        client_of("http://cam.invalid/").get("http://cam.invalid/")


@pytest.mark.parametrize(
    ("addresses", "no_proxy", "is_used"),
    [
        (["93.184.215.14"], "", True),
        ([], "", True),  # only the proxy can resolve this host name
        (["192.168.1.7"], "", False),
        (["fd00::7"], "", False),
        (["93.184.215.14", "10.0.0.7"], "", False),
        (["93.184.215.14"], "example.org", False),
        (["93.184.215.14"], ".example.org", False),
        (["93.184.215.14"], "*", False),
        (["93.184.215.14"], "cam.example.org:80", False),
        (["93.184.215.14"], "other.org", True),
    ],
)
def test_a_proxy_is_used_only_for_public_hosts_that_no_proxy_does_not_name(
    addresses: list[str], no_proxy: str, is_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy:8080")
    monkeypatch.setenv("no_proxy", no_proxy)
    found = proxies.proxy_for("http", "cam.example.org", 80, addresses)
    assert (found is not None) == is_used
    assert found is None or (found.host, found.port, found.name) == ("proxy", 8080, "http://proxy:8080")
    assert proxies.proxy_for("https", "cam.example.org", 443, addresses) is None
