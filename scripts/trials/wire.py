"""HTTP by hand: bytes to a socket, and what comes back. A client that behaves cannot send what an attacker does."""

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
    """What came back is no HTTP/1.1; its argument is its beginning, in bytes."""


@dataclass(frozen=True)
class RawAnswer:
    """A response. ``body`` is None where there is none, and where it has no end."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes | None


@dataclass(frozen=True)
class Address:
    """Where the application listens."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Address:
        """Of an http:// address."""
        parts = urlsplit(url)
        assert parts.hostname
        return cls(parts.hostname, parts.port or 80)

    @contextmanager
    def connect(self, timeout_s: float, window_bytes: int = 0) -> Iterator[socket.socket]:
        """A connection for the length of a block; ``window_bytes``: what it takes that is not read."""
        with socket.socket() as end:
            if window_bytes:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
            end.settimeout(timeout_s)
            end.connect((self.host, self.port))
            yield end


def request(
    method: str = "GET", path: str = "/", headers: Sequence[tuple[str, str]] = (), body: bytes | None = None
) -> bytes:
    """A request as it ought to be, and no further than latin-1 if ``path`` or ``headers`` are not."""
    lines = [f"{method} {path} HTTP/1.1"]
    if not any(name.lower() == "host" for name, _ in headers):
        lines.append("Host: localhost")
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None and not any(name.lower() in {"content-length", "transfer-encoding"} for name, _ in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + (body or b"")


def send(end: socket.socket, parts: Sequence[bytes], pause_s: float = 0) -> bool:
    """The parts one after the other; False: the other end did not want them all."""
    try:
        for part in parts:
            end.sendall(part)
            if pause_s:
                time.sleep(pause_s)
    except OSError:
        return False
    return True


def read_answers(end: socket.socket, methods: Sequence[str]) -> list[RawAnswer]:
    """To requests of these methods, as long as the other end answers. Raises NotHttp, TimeoutError."""
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
            # To a HEAD that it refuses HAProxy sends a body all the same.
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
    except ValueError as exc:  # no length, or one that is none
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
        raise ConnectionError("the rest of the answer did not come")
    return body
