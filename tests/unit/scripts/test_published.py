"""Tests of the download of the published model. Only content with the known hash is accepted."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts.codes import published

CONTENT = b"the weights of a model"


class Host(BaseHTTPRequestHandler):
    """A handler that serves ``CONTENT`` at every path."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Run a server in place of GitHub, and set the known hash to the hash of its content."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(published, "URL", f"http://127.0.0.1:{server.server_port}/yolo26n.pt")
    monkeypatch.setattr(published, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    yield server
    server.shutdown()
    server.server_close()


def test_the_file_is_downloaded_once_and_kept(host: ThreadingHTTPServer, tmp_path: Path) -> None:
    path = published.fetch(tmp_path / "cache")
    assert (path.name, path.read_bytes()) == ("yolo26n.pt", CONTENT)
    host.shutdown()
    assert published.fetch(tmp_path / "cache") == path
    assert [other.name for other in path.parent.iterdir()] == ["yolo26n.pt"]


def test_other_content_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(published, "SHA256", "0" * 64)
    with pytest.raises(published.NotFetched, match="does not have the expected SHA-256"):
        published.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "no address"])
def test_a_missing_network_is_reported(proxy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(published.NotFetched):
        published.fetch(tmp_path)


def test_an_unusable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(published.NotFetched):
        published.fetch(tmp_path / "file")
