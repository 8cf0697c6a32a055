"""HTTP over a plain socket, since no HTTP client library sends what an attacker sends."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urlsplit

_LONGEST_ANSWER_BYTES = 1 << 26
_ENDLESS = ("text/event-stream", "multipart/x-mixed-replace")


class NotHttp(Exception):
    """The answer is not HTTP/1.1. The exception's argument is the first line of the answer, as bytes."""


@dataclass(frozen=True)
class RawAnswer:
    """A response. ``body`` is None if the response has no body or an endless body."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes | None


@dataclass(frozen=True)
class Address:
    """The address at which the application listens."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Address:
        """Return the address of an http:// URL."""
        parts = urlsplit(url)
        assert parts.hostname
        return cls(parts.hostname, parts.port or 80)

    @contextmanager
    def connect(self, timeout_s: float, window_bytes: int = 0) -> Iterator[socket.socket]:
        """Open a connection, and close it when the ``with`` block ends.

        ``window_bytes`` limits the connection's receive buffer.
        """
        with socket.socket() as end:
            if window_bytes:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
            end.settimeout(timeout_s)
            end.connect((self.host, self.port))
            yield end


def request(
    method: str = "GET", path: str = "/", headers: Sequence[tuple[str, str]] = (), body: bytes | None = None
) -> bytes:
    """Return a request with this path and these headers unchanged, except that non-Latin-1 characters become "?"."""
    lines = [f"{method} {path} HTTP/1.1"]
    if not any(name.lower() == "host" for name, _ in headers):
        lines.append("Host: localhost")
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None and not any(name.lower() in {"content-length", "transfer-encoding"} for name, _ in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + (body or b"")


def send(end: socket.socket, parts: Sequence[bytes], pause_s: float = 0) -> bool:
    """Send the parts one after the other.

    Return False if the server closes the connection before all parts are sent.
    """
    try:
        for part in parts:
            end.sendall(part)
            if pause_s:
                time.sleep(pause_s)
    except OSError:
        return False
    return True


def read_answers(end: socket.socket, methods: Sequence[str]) -> list[RawAnswer]:
    """Read the answers to requests with these methods, until the server closes the connection.

    Raise NotHttp if an answer is not HTTP/1.1, and TimeoutError if an answer does not arrive in time.
    """
    answers = []
    with end.makefile("rb") as file:
        for method in methods:
            try:
                answer = _read(file, method)
            except ConnectionError:
                break
            if answer is None:
                break
            answers.append(answer)
            # HAProxy sends a body even when it refuses a HEAD request, so later answers cannot be parsed.
            if answer.body is None or answer.headers.get("connection", "").lower() == "close":
                break
    return answers


def _read(file: BinaryIO, method: str) -> RawAnswer | None:
    status = 100
    while status in range(100, 200) and status != 101:
        line = file.readline(65_537)
        if not line:
            return None
        try:
            version, code, _ = (line.decode("latin-1").rstrip("\r\n") + " ").split(" ", 2)
            status = int(code)
            if not version.startswith("HTTP/1."):
                raise NotHttp(line)
            parsed = http.client.parse_headers(file)
        except (ValueError, http.client.HTTPException) as exc:
            raise NotHttp(line) from exc
    headers = {name.lower(): value for name, value in parsed.items()}
    is_endless = headers.get("content-type", "").startswith(_ENDLESS)
    if method == "HEAD" or status in (101, 204, 304) or is_endless:
        return RawAnswer(status, headers, None)
    try:
        return RawAnswer(status, headers, _read_body(file, headers))
    except ValueError as exc:  # the length is missing or not a number
        raise NotHttp(line) from exc


def _read_body(file: BinaryIO, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "") == "chunked":
        body = b""
        while size := int(file.readline(100).split(b";")[0] or b"0", 16):
            body += file.read(size)
            file.readline(100)
        file.readline(100)
        return body
    if "content-length" not in headers:
        return file.read(_LONGEST_ANSWER_BYTES)
    length = int(headers["content-length"])
    body = file.read(length)
    if len(body) < length:
        raise ConnectionError("the answer is shorter than its Content-Length")
    return body
