"""Sources that send video over a plain TCP connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from serve_app.errors import SourceError
from serve_app.video.decoding import Decoding
from serve_app.video.failures import explain
from serve_app.video.ffmpeg import Input, open_media
from serve_app.video.jpegs import jpegs_of, video_of
from serve_app.video.pictures import Video
from serve_app.video.source import Source

_TIMEOUT_S = 10.0  # for each network operation, and also for each frame
_HEAD_BYTES = 3


@contextmanager
def open_tcp(source: Source, max_pixels: int, decoding: Decoding) -> Iterator[Video]:
    """Open a TCP source for the duration of the ``with`` block.

    The source sends JPEGs or a format that FFmpeg reads. Raise SourceError as ``open_video`` does.
    """
    parts = urlsplit(source.uri)
    if not parts.port:
        raise SourceError("source.uri: a tcp source must be tcp://host:port")
    try:
        connection = socket.create_connection((parts.hostname or "", parts.port), _TIMEOUT_S)
    except OSError as exc:
        raise explain(source, exc, timed_out=isinstance(exc, TimeoutError)) from None
    with connection:
        body = _Body(source, connection)
        if body.peek(_HEAD_BYTES) == b"\xff\xd8\xff":
            yield video_of(jpegs_of(source, body.read, body.reset_timeout, max_pixels), max_pixels)
        else:
            media = Input(body, {"protocol_whitelist": "none"}, reset_timeout=body.reset_timeout)
            with open_media(source, media, max_pixels, decoding) as video:
                yield video


class _Body:
    def __init__(self, source: Source, connection: socket.socket) -> None:
        self._source = source
        self._connection = connection
        self._read_already = b""
        self.reset_timeout()

    def reset_timeout(self) -> None:
        """Restart the timeout for the next frame."""
        self._expires_at_s = time.monotonic() + _TIMEOUT_S

    def peek(self, size: int) -> bytes:
        """Return the first ``size`` bytes without consuming them."""
        while len(self._read_already) < size and (data := self._fetch(1 << 16)):
            self._read_already += data
        return self._read_already[:size]

    def read(self, size: int = 1 << 16, /) -> bytes:
        """Return the next bytes, or ``b""`` at the end.

        Raise SourceGone if the connection fails, and SourceStalled if the source sends nothing.
        """
        if self._read_already:
            data, self._read_already = self._read_already[:size], self._read_already[size:]
            return data
        return self._fetch(size)

    def _fetch(self, size: int) -> bytes:
        try:
            if time.monotonic() > self._expires_at_s:
                raise TimeoutError
            return self._connection.recv(size)
        except OSError as exc:
            raise explain(self._source, exc, timed_out=isinstance(exc, TimeoutError)) from None
