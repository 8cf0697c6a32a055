"""Every method of both clients raises ApiError if the server is not a Sightline server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serve_app.client import ApiError


class _Welcome(BaseHTTPRequestHandler):
    """A handler that responds to every request with status 200 and a web page."""

    content_type = "text/html; charset=utf-8"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<html>welcome</html>"
        self.send_response(200)
        self.send_header("Content-Type", self.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


class _Pictures(_Welcome):
    content_type = "image/jpeg"


@pytest.fixture
def client_of(connect: Any) -> Iterator[Callable[[type[_Welcome]], Any]]:
    servers: list[ThreadingHTTPServer] = []

    def client_of(handler: type[_Welcome]) -> Any:
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return connect(f"http://127.0.0.1:{servers[-1].server_port}", timeout_s=5)

    yield client_of
    for server in servers:
        server.shutdown()
        server.socket.close()


CALLS: dict[str, Callable[[Any], Any]] = {
    "detect": lambda client: client.detect(b"picture"),
    "detect_many": lambda client: client.detect_many([b"one", b"two"]),
    "annotate": lambda client: client.annotate(b"picture"),
    "models": lambda client: client.models(),
    "health": lambda client: client.health(),
    "frame": lambda client: client.streams.frame("lot"),
    "delete": lambda client: client.streams.delete("lot"),
    "events": lambda client: next(client.streams.events("lot")),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_web_page_is_an_unexpected_response(
    client_of: Callable[[type[_Welcome]], Any], call: Callable[[Any], Any]
) -> None:
    with pytest.raises(ApiError, match="check the url") as error:
        call(client_of(_Welcome))
    assert (error.value.code, error.value.is_retryable) == ("unexpected_answer", False)


def test_a_frame_without_its_id_is_an_unexpected_response(client_of: Callable[[type[_Welcome]], Any]) -> None:
    with pytest.raises(ApiError, match="no number in its header X-Frame-Id") as error:
        client_of(_Pictures).streams.frame("lot")
    assert error.value.code == "unexpected_answer"
