"""An HTTPS server that publishes files as GitHub's releases do, and a proxy that leads to it."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from serve_app.models.published import Release
from serve_app.network.address_guard import AddressGuard
from tests.support.certificates import make_certificate

ADDRESS = "127.0.0.2"  # all of 127.0.0.0/8 is this machine
ALLOWED = AddressGuard((ip_network(ADDRESS),))
_FIRST_BYTES = 200_000  # sent before the server waits for its gate
CHECKPOINT = b"PK\x03\x04" + bytes(range(256)) * 2000  # begins like a checkpoint, but has nothing in it


class ReleaseServer:
    """A server with one file at ``/release/NAME``, for every name. Its attributes say how it answers."""

    def __init__(self, certificate: Path) -> None:
        self.certificate = certificate
        self.content = CHECKPOINT
        self.etag = '"1"'
        self.has_ranges = True
        self.headers: dict[str, str | None] = {}  # replaces headers of the answer; None removes a header
        self.status = 200
        self.errors: list[int] = []  # statuses of the first answers, which have no body
        self.redirects: dict[str, str] = {}  # by path
        # For each answer, this is the number of bytes of the body that are sent before the connection is closed.
        self.cuts: list[int] = []
        self.requests: list[tuple[str, str | None]] = []  # the path and the requested range of each request
        self.has_begun = threading.Event()  # the server has sent a part of a body
        self.gate = threading.Event()  # the server sends the rest of a body only when this event is set
        self.gate.set()

    @property
    def release(self) -> Release:
        """The release that this server publishes."""
        return Release(f"https://{self.host}/release", frozenset({self.host}), guard=ALLOWED)

    @property
    def host(self) -> str:
        return f"{ADDRESS}:{self.port}"

    def ranges(self) -> list[str | None]:
        """Return the range that each request asked for."""
        return [requested for _, requested in self.requests]

    @contextlib.contextmanager
    def run(self) -> Iterator[ReleaseServer]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.certificate, self.certificate.with_suffix(".key"))
        server = _Server((ADDRESS, 0), _Handler)
        server.release = self
        self.port = server.server_port
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.gate.set()
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    release: ReleaseServer

    def handle_error(self, *_: object) -> None:
        """Stay silent, because clients of the tests break connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        release = self.server.release
        requested = self.headers.get("Range")
        release.requests.append((self.path, requested))
        self.close_connection = True
        if location := release.redirects.get(self.path):
            return self._answer(302, {"Location": location, "Content-Length": "0"}, b"")
        if release.errors:
            return self._answer(release.errors.pop(0), {"Content-Length": "0"}, b"")
        body, status, size = release.content, release.status, len(release.content)
        headers = {"ETag": release.etag}
        if requested and release.has_ranges and self.headers.get("If-Range") == release.etag:
            first = int(re.fullmatch(r"bytes=(\d+)-", requested)[1])  # type: ignore[index]
            if first >= size:
                return self._answer(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"}, b"")
            body, status = body[first:], 206
            headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        headers["Content-Length"] = str(len(body))
        return self._answer(status, headers, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        release = self.server.release
        self.send_response(status)
        for name, value in (headers | release.headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if body and release.cuts:
            self.wfile.write(body[: release.cuts.pop(0)])
            return
        self.wfile.write(body[:_FIRST_BYTES])
        if body:
            release.has_begun.set()
        release.gate.wait()
        self.wfile.write(body[_FIRST_BYTES:])

    def log_message(self, *_: Any) -> None:
        pass


class ConnectProxy:
    """An HTTP proxy that connects every host to one port of this machine, or answers with an error status."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.status = 200
        self.heads: list[str] = []

    @contextlib.contextmanager
    def run(self) -> Iterator[ConnectProxy]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            thread = threading.Thread(target=self._serve, args=(listener,))
            thread.start()
            try:
                yield self
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, socket.create_connection((ADDRESS, self._port)) as there:
                    self.heads.append(connection.recv(1 << 16).decode())
                    connection.sendall(f"HTTP/1.1 {self.status} Said\r\n\r\n".encode())
                    if self.status == 200:
                        back = threading.Thread(target=_copy, args=(there, connection))
                        back.start()
                        _copy(connection, there)
                        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def release_server(folder: Path) -> Iterator[ReleaseServer]:
    """Run a server whose certificate is valid for ``ADDRESS`` and two names."""
    certificate = make_certificate(folder, ["release.example", "assets.example"], [ADDRESS])
    with ReleaseServer(certificate).run() as server:
        yield server


def trusted_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    """Start a server whose certificate this process trusts. Tests make a fixture of this function."""
    (tmp_path / "server").mkdir()
    with release_server(tmp_path / "server") as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        yield server
