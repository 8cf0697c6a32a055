"""Send documents to standard output, to a file, or to the CloudWatch agent.

The agent listens at TCP and UDP port 25888 by default:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Generation_CloudWatch_Agent.html
"""

from __future__ import annotations

import errno
import logging
import os
import re
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from serve_app.errors import ConfigError

logger = logging.getLogger(__name__)

STDOUT = "stdout"
MAX_WAITING = 10_000  # documents; the oldest are dropped
_MAX_FILE_BYTES = 64 << 20  # then the file is renamed to ``.1``, which replaces the previous one
_TIMEOUT_S = 2.0
_LIKE_AN_ADDRESS = re.compile(r"(tcp|udp):.*|[^/]+:\d+", re.IGNORECASE)  # one that is incomplete


class Outlet(Protocol):
    """A destination of documents."""

    def send(self, line: str) -> None:
        """Send one document. Raise OSError if it was not sent."""

    def close(self) -> None:
        """Close what is open."""


def open_outlet(setting: str) -> Outlet:
    """Return the outlet for ``stdout``, the path of a file, or the agent's address such as ``tcp://127.0.0.1:25888``.

    Raise ConfigError if the address is not valid. Nothing is opened before the first document is sent.
    """
    if setting == STDOUT:
        return _Stdout()
    if "://" not in setting and not _LIKE_AN_ADDRESS.fullmatch(setting):
        return _File(Path(setting).expanduser().absolute())  # without following links, because of /proc/1/fd/1
    try:
        parts = urlsplit(setting)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as the resolver does; a host such as agent..local is a UnicodeError there
    except ValueError as exc:
        raise ConfigError(f"telemetry.cloudwatch: {setting!r} is not a valid address ({exc})") from exc
    if parts.scheme not in {"tcp", "udp"} or not host or not port or parts.path.strip("/"):
        raise ConfigError(
            f"telemetry.cloudwatch: {setting!r} is not an address; use stdout, the path of a file, tcp://HOST:PORT or "
            "udp://HOST:PORT"
        )
    return _Tcp(host, port) if parts.scheme == "tcp" else _Udp(host, port)


class Delivery:
    """Sends documents in order, and keeps those that could not be sent for the next time."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._waiting: deque[str] = deque()
        self._is_failing = False
        self.sent = 0
        self.dropped = 0  # because too many documents waited

    def send(self, lines: Sequence[str]) -> None:
        """Send all waiting documents and then these. This blocks for up to a few seconds."""
        self._waiting.extend(lines)
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        try:
            while self._waiting:
                self._outlet.send(self._waiting[0])
                self._waiting.popleft()
                self.sent += 1
        except OSError as exc:
            if not self._is_failing:
                logger.warning(
                    "telemetry.cloudwatch: documents cannot be sent: %s; they are kept for the next try",
                    exc.strerror or str(exc) or type(exc).__name__,
                )
            self._is_failing = True
        else:
            self._is_failing = False

    def close(self, lines: Sequence[str] = ()) -> None:
        """Send these last documents, and close the outlet. Documents that cannot be sent are counted as dropped."""
        self.send(lines)
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._outlet.close()


class _Stdout:
    def send(self, line: str) -> None:
        print(line, flush=True)

    def close(self) -> None:
        pass


class _File:
    """Appends to a file or a pipe, which is open only during a write, so that a file may be moved away at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_cut = False  # whether a pipe's last line is only a part of a document

    def send(self, line: str) -> None:
        data = line.encode() + b"\n"
        with suppress(FileNotFoundError):
            status = self._path.stat()
            if stat.S_ISREG(status.st_mode) and status.st_size + len(data) > _MAX_FILE_BYTES:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        with open(self._path, "ab", buffering=0, opener=_private) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                self._write_to_pipe(file, data)
            elif (written := file.write(data)) < len(data):  # the disk is full; the whole line is written again later
                file.truncate(file.tell() - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write_to_pipe(self, file: FileIO, data: bytes) -> None:
        """Write everything, although the pipe's reader may be slow. Raise OSError if it is too slow."""
        if self._is_cut:
            data = b"\n" + data
        ready = select.poll()
        ready.register(file, select.POLLOUT)
        expires_at_s = time.monotonic() + _TIMEOUT_S
        while data:
            if written := file.write(data):
                data = data[written:]
                self._is_cut = bool(data)
            elif (left_s := expires_at_s - time.monotonic()) <= 0 or not ready.poll(left_s * 1000):
                raise OSError(errno.EAGAIN, "the reader of the pipe is too slow")

    def close(self) -> None:
        pass


class _Tcp:
    """Sends one line for each document over a connection that stays open."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._connection: socket.socket | None = None

    def send(self, line: str) -> None:
        try:
            if self._connection is None or _is_closed(self._connection):
                self.close()
                self._connection = socket.create_connection(self._address, _TIMEOUT_S)
            self._connection.sendall(line.encode() + b"\n")
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Udp:
    """Sends one datagram for each document. A lost datagram is not noticed."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port

    def send(self, line: str) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.sendto(line.encode(), address)

    def close(self) -> None:
        pass


def _is_closed(connection: socket.socket) -> bool:
    """Return whether the agent has closed the connection. It never sends anything."""
    connection.setblocking(False)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(_TIMEOUT_S)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK, 0o600)  # otherwise, opening a pipe without a reader would not return
