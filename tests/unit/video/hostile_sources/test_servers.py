"""Servers and cameras whose responses name files or other servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serve_app.errors import SourceError
from tests.support.hostile_sources import FRAMES, LISTS, SDP, filled, frames_of, playlist
from tests.support.traps import Trap


@pytest.fixture
def answering(secret: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield a server's URL and a dict of its responses by path.

    For a path that starts with /to, the server redirects to the URL in the dict. For other paths, it sends the body in
    the dict.
    """
    answers: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path, b"")
            if self.path.startswith("/to"):
                self.send_response(302)
                self.send_header("Location", body.decode())
                body = b""
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}", answers
        server.shutdown()


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize("name", LISTS)
def test_a_servers_playlist_cannot_lead_to_files_or_other_protocols(
    name: str, secret: Path, forbidden: Trap, answering: tuple[str, dict[str, bytes]]
) -> None:
    url, answers = answering
    answers["/a.m3u8"] = filled(LISTS[name], secret, forbidden)
    with pytest.raises(SourceError):
        frames_of(f"{url}/a.m3u8")


def test_a_servers_own_playlist_is_played(secret: Path, answering: tuple[str, dict[str, bytes]]) -> None:
    url, answers = answering
    answers |= {"/a.m3u8": playlist("a.ts").encode(), "/a.ts": secret.read_bytes(), "/to": b"/a.ts"}
    assert frames_of(f"{url}/a.m3u8") == frames_of(f"{url}/to") == FRAMES


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize(
    "location",
    [
        "file://{secret}", "file:{secret}", "concat:{secret}", "subfile,,start,0,end,0,,:{secret}", "async:{secret}",
        "crypto+file://{secret}", "data:video/mp2t;base64,AAAA", "unix:{secret}", "fd:", "pipe:0",
        "rtsp://127.0.0.1:{port}/", "rtp://127.0.0.1:{port}", "tcp://127.0.0.1:{port}", "udp://127.0.0.1:{port}",
        "ftp://127.0.0.1:{port}/", "gopher://127.0.0.1:{port}/", "https://127.0.0.1:{port}/", "tls://127.0.0.1:{port}",
    ],
)  # fmt: skip
def test_a_servers_redirect_cannot_lead_to_files_or_other_protocols(
    location: str, secret: Path, forbidden: Trap, answering: tuple[str, dict[str, bytes]]
) -> None:
    url, answers = answering
    answers["/to"] = filled(location, secret, forbidden)
    with pytest.raises(SourceError):
        frames_of(f"{url}/to")


class RtspServer:
    """A camera that sends the test's SDP description. The camera closes the connection after a PLAY request."""

    def __init__(self, description: bytes, redirect: bytes) -> None:
        self._description, self._redirect = description, redirect
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.asked: list[str] = []

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                for line in stream:
                    name, _, rest = line.decode().partition(" ")
                    if rest.rstrip().endswith("RTSP/1.0"):
                        self.asked.append(name)
                    elif name == "CSeq:":
                        number = rest.strip()
                    elif self.asked[-1] == "PLAY":
                        break
                    elif not line.strip():
                        stream.write(self._answer(self.asked[-1], number))
                        stream.flush()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _answer(self, method: str, number: str) -> bytes:
        status, headers, body = 200, "Session: 1\r\n", b""
        if method == "DESCRIBE" and self._redirect:
            status, headers = 302, f"Location: {self._redirect.decode()}\r\n"
        elif method == "DESCRIBE":
            headers, body = "Content-Type: application/sdp\r\n", self._description
        elif method == "SETUP":
            headers += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;destination=127.0.0.1\r\n"
        return (
            f"RTSP/1.0 {status} Said\r\nCSeq: {number}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )


@pytest.mark.parametrize(
    ("description", "redirect"),
    [
        pytest.param(SDP, "", id="another address and port"),
        pytest.param(SDP.replace("rtsp://127.0.0.1:{port}/", "file://{secret}"), "", id="a file"),
        pytest.param(SDP.replace("rtsp:", "tcp:"), "", id="another protocol"),
        pytest.param(SDP.replace("t=0 0\n", "t=0 0\na=control:rtsp://127.0.0.1:{port}/\n"), "", id="another base"),
        pytest.param("", "file://{secret}", id="redirected to a file"),
        pytest.param("", "http://127.0.0.1:{port}/", id="redirected to http"),
        pytest.param("", "tcp://127.0.0.1:{port}/", id="redirected to tcp"),
        pytest.param("", "concat:{secret}", id="redirected to concat"),
    ],
)
def test_a_camera_cannot_lead_to_another_server_or_file(
    description: str, redirect: str, secret: Path, forbidden: Trap
) -> None:
    server = RtspServer(filled(description, secret, forbidden), filled(redirect, secret, forbidden))
    serving = threading.Thread(target=server.serve)
    serving.start()
    try:
        with pytest.raises(SourceError):
            frames_of(f"rtsp://127.0.0.1:{server.port}/")
    finally:
        server.close()
        serving.join()
    assert "DESCRIBE" in server.asked
    assert ("PLAY" in server.asked) == bool(description)
