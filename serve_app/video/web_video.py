"""HTTP sources: MJPEG cameras, snapshots that change, HLS playlists, and videos that FFmpeg reads.

We detect the kind of source from the first bytes. We use the ``Content-Type`` only if these bytes are ambiguous,
because many cameras send a wrong ``Content-Type``.
"""

from __future__ import annotations

import functools
import io
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from serve_app.errors import NotAnImage, ServeAppError, SourceError, TooLarge, Undecodable
from serve_app.images.decode import decode
from serve_app.network.address_guard import AddressGuard
from serve_app.types import Pixels, Position
from serve_app.video.decoding import Decoding
from serve_app.video.failures import too_large
from serve_app.video.ffmpeg import Body, Input, open_media
from serve_app.video.folder import is_picture, is_still
from serve_app.video.hls import HlsBody
from serve_app.video.jpegs import MAX_PICTURE_BYTES, is_mjpeg, jpegs_of, video_of
from serve_app.video.pictures import Picture, Video
from serve_app.video.source import Source
from serve_app.video.timestamps import USUAL_FPS
from serve_app.video.web import Reply, WebClient

SNAPSHOT_INTERVAL_S = 1.0  # max_fps overrides this
_HEAD_BYTES = 64
_MAX_CLIP_BYTES = 1 << 40  # a larger declared size means an endless stream
_CLIPS = {".mjpeg", ".mjpg", ".mjp"}  # files of concatenated JPEGs
_PAGE = re.compile(rb"<(!doctype html|html|head|body|script)", re.IGNORECASE)
_BOUNDARY = re.compile(rb"\s*--[\x21-\x7e]")
_NO_NESTING = {"protocol_whitelist": "none"}  # keeps FFmpeg from opening files and URLs that the data names


@contextmanager
def open_web(source: Source, guard: AddressGuard, max_pixels: int, decoding: Decoding) -> Iterator[Video]:
    """Open an HTTP source for the duration of the ``with`` block. Raise SourceError as ``open_video`` does."""
    client = WebClient(source, guard)
    with ExitStack() as stack:
        reply = stack.enter_context(closing(client.get(source.uri)))
        head = reply.peek(_HEAD_BYTES)
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        kind = reply.content_type
        if text.startswith(b"#EXTM3U"):
            body = HlsBody(client, reply, source.name, max_pixels)
            media = Input(
                body, _NO_NESTING, has_end=body.has_end, comes_in_bursts=True, reset_timeout=client.reset_timeout
            )
            runs = stack.enter_context(ExitStack())
            first = runs.enter_context(open_media(source, media, max_pixels, decoding))
            yield replace(
                first,
                pictures=_read_all_runs(first, body, runs, lambda: open_media(source, media, max_pixels, decoding)),
            )
        elif kind.startswith("multipart/") or _BOUNDARY.match(head):
            yield video_of(jpegs_of(source, reply.read, client.reset_timeout, max_pixels), max_pixels)
        elif _PAGE.match(text) or (kind == "text/html" and not is_picture(head)):
            raise SourceError(f"{source.name} answered with a web page; use the URL of its stream or snapshot")
        elif text.startswith((b"<?xml", b"<MPD")):
            raise SourceError(f"{source.name} answered with XML, such as DASH, which is not supported; use HLS or RTSP")
        elif head.startswith(b"\xff\xd8\xff"):
            yield _open_jpegs(source, client, reply, max_pixels)
        elif _is_snapshot(head, kind):
            yield _snapshots(source, client, _read_image(source, reply), max_pixels)
        else:
            file: Body = WebFile(client, reply) if _is_seekable(client, reply) else reply
            has_end = reply.size is not None and reply.size < _MAX_CLIP_BYTES
            media = Input(file, _NO_NESTING, has_end=has_end, reset_timeout=client.reset_timeout)
            yield stack.enter_context(open_media(source, media, max_pixels, decoding))


def _read_all_runs(
    video: Video, body: HlsBody, runs: ExitStack, open_next: Callable[[], AbstractContextManager[Video]]
) -> Iterator[Picture]:
    """Yield the images of all runs of a playlist as one video.

    A run is the video between two discontinuities. The timestamps of a run are shifted so that its first frame
    is one frame interval after the last frame of the previous run. Closing ``runs`` closes the current run.
    """
    frame_s = 1 / (video.fps or USUAL_FPS)
    last = Position(-1)
    while True:
        before, offset_s = last, None
        for pixels, at in video:
            stamp_s = at.timestamp_s
            if stamp_s is not None and before.timestamp_s is not None:
                if offset_s is None:
                    offset_s = before.timestamp_s + frame_s - stamp_s
                stamp_s += offset_s
            last = Position(before.index + 1 + at.index, stamp_s)
            yield pixels, last
        if not body.next_run():
            return
        runs.close()
        video = runs.enter_context(open_next())


def _open_jpegs(source: Source, client: WebClient, reply: Reply, max_pixels: int) -> Video:
    """Open a source that starts with a JPEG. It may be a snapshot, a camera's stream, or a clip."""
    size = reply.size if reply.size is not None and reply.size < _MAX_CLIP_BYTES else None
    has_end, is_long = size is not None, size is None or size > MAX_PICTURE_BYTES
    if is_long or reply.content_type.startswith("video/") or _ending(reply.url) in _CLIPS:
        jpegs = jpegs_of(source, reply.read, client.reset_timeout, max_pixels)
        first = list(itertools.islice(jpegs, 2))
        if len(first) == 2:
            return video_of(itertools.chain(first, jpegs), max_pixels, has_end=has_end)
        return _snapshots(source, client, first[0], max_pixels)
    data = _read_image(source, reply)
    if not is_mjpeg(data):
        return _snapshots(source, client, data, max_pixels)
    read = functools.partial(io.BytesIO(data).read, 1 << 16)
    return video_of(jpegs_of(source, read, client.reset_timeout, max_pixels), max_pixels, has_end=True)


def _snapshots(source: Source, client: WebClient, first: bytes, max_pixels: int) -> Video:
    def pictures() -> Iterator[Picture]:
        data = first
        for index in itertools.count():
            yield _snapshot(source, data, max_pixels), Position(index)
            with closing(client.get(source.uri)) as reply:
                data = _read_image(source, reply)

    return Video(pictures(), pull_interval_s=SNAPSHOT_INTERVAL_S)


def _snapshot(source: Source, data: bytes, max_pixels: int) -> Callable[[], Pixels]:
    """Return a function that returns a snapshot's pixels.

    Decode the snapshot here, so that an unsupported format or size raises SourceError. Later snapshots would
    have the same problem. Any other decoding error is raised only when the pixels are requested, because the next
    snapshot may be valid.
    """
    try:
        pixels = decode(data, max_pixels)
    except TooLarge:
        raise too_large(source, max_pixels) from None
    except NotAnImage as exc:
        raise SourceError(f"{source.name} sends images that cannot be read: {exc.detail}") from None
    except ServeAppError as exc:
        return functools.partial(_refuse, exc.detail)
    return lambda: pixels


def _refuse(detail: str) -> Pixels:
    raise Undecodable(detail)


def _read_image(source: Source, reply: Reply) -> bytes:
    data = reply.read_all(MAX_PICTURE_BYTES)
    if data is None:
        raise SourceError(f"{source.name} sends an image of more than {MAX_PICTURE_BYTES >> 20} MiB")
    return data


def _ending(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).suffix.lower()


def _is_snapshot(head: bytes, kind: str) -> bool:
    """Return whether a response is one image.

    A GIF counts as a video, because its first bytes do not show whether it is animated.
    """
    if head.startswith(b"GIF8"):
        return False
    return is_picture(head) or is_still(head) or (kind.startswith("image/") and not _is_video(head))


def _is_video(head: bytes) -> bool:
    """Return whether the first bytes are those of MP4, Matroska, AVI, FLV or MPEG-TS."""
    return head[4:8] == b"ftyp" or head.startswith((b"\x1aE\xdf\xa3", b"RIFF", b"FLV")) or head[:1] == b"G"


def _is_seekable(client: WebClient, reply: Reply) -> bool:
    """Return whether the server supports byte ranges.

    If the response does not say so, request one byte, because many servers support byte ranges without saying so.
    """
    if reply.size is None:
        return False
    accepted_ranges = reply.header("Accept-Ranges").strip().lower()
    if accepted_ranges:
        return accepted_ranges == "bytes"
    try:
        with closing(client.get(reply.url, {"Range": "bytes=0-0"})) as part:
            return part.status == 206
    except SourceError:
        return False


class WebFile:
    """A file-like object that reads a file on a web server and can seek.

    FFmpeg must seek, because the index of an MP4 file may be at the end of the file.
    """

    def __init__(self, client: WebClient, reply: Reply) -> None:
        self._client = client
        self._reply: Reply | None = reply
        self._url = reply.url
        self._size = reply.size or 0
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, or ``b""`` at the end. Raise SourceError if the server fails."""
        if self._at >= self._size:
            return b""
        if self._reply is None:
            self._reply = self._client.get(self._url, {"Range": f"bytes={self._at}-"})
            if self._reply.status != 206:
                raise SourceError("the server declares support for byte ranges but does not send them")
        data = self._reply.read(size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position, and return it in bytes from the start."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset != self._at:
            self.close()
            self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the current position in bytes."""
        return self._at

    def close(self) -> None:
        """Close the current response."""
        if self._reply is not None:
            self._reply.close()
            self._reply = None
