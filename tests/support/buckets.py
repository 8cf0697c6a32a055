"""Moto's S3 in a process of its own, with a door that can answer 503 instead."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from obstore.store import S3Store

from tests.support.paths import ROOT

_HOST = "127.0.0.1"
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


class BucketDoor:
    """An HTTP server in front of S3, which counts requests and can fail."""

    def __init__(self, port: int) -> None:
        self.status: int | None = None  # the error that each request gets, if set
        self.requests: list[str] = []  # methods and paths
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                door.requests.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if door.status is not None:
                    self.send_response(door.status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                server = HTTPConnection(_HOST, port)
                server.request(self.command, self.path, body, dict(self.headers))
                answer = server.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(data)
                server.close()

            do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer((_HOST, 0), Handler)
        self.url = f"http://{_HOST}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def moto_server() -> Iterator[int]:
    """Run Moto's server, which has S3 and SQS, and yield its port."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "moto_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.terminate()


def use(door: BucketDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment with which obstore reaches the server."""
    for name, value in {
        "AWS_ENDPOINT_URL": door.url,
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)


def make_bucket(name: str) -> S3Store:
    """Make a bucket, or empty the existing one, and return it."""
    port = urlsplit(os.environ["AWS_ENDPOINT_URL"]).port
    server = HTTPConnection(_HOST, port)
    server.request(
        "PUT", f"/{name}", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=AKIATEST/x/us-east-1/s3/x"}
    )
    server.getresponse().read()
    server.close()
    bucket = S3Store(name, client_options={"allow_http": True})
    keys = [meta["path"] for metas in bucket.list() for meta in metas]
    if keys:
        bucket.delete(keys)
    return bucket
