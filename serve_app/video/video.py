"""Opening of sources of all kinds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from serve_app.errors import SourceError, SourceTooLarge
from serve_app.network.address_guard import AddressGuard
from serve_app.types import Position
from serve_app.video.decoding import Decoding
from serve_app.video.failures import explain
from serve_app.video.ffmpeg import Input, open_media
from serve_app.video.folder import is_named_a_picture, is_picture, is_still, open_folder
from serve_app.video.jpegs import jpegs_of, video_of
from serve_app.video.pictures import Video
from serve_app.video.source import Kind, Source, open_below
from serve_app.video.tcp import open_tcp
from serve_app.video.web_video import open_web

# The protocols that FFmpeg may use for each kind of source. Without this list, a server's response could make FFmpeg
# open local files.
_PROTOCOLS: dict[Kind, str] = {
    "rtsp": "rtsp,rtp,tcp,udp",
    "rtsps": "rtsp,rtsps,rtp,tls,tcp",
    "udp": "udp",
}
_HEAD_BYTES = 16
_PIECE_BYTES = 1 << 16
_IS_AN_IMAGE = "is an image, not a video; put it into a folder and use the folder as the source"


@contextmanager
def open_video(
    source: Source,
    *,
    max_pixels: int,
    after: Position | None = None,
    decoding: Decoding | None = None,
    guard: AddressGuard | None = None,
) -> Iterator[Video]:
    """Open a source for the duration of the ``with`` block, and yield its images after the position ``after``.

    ``decoding`` says how to decode. By default, all frames are decoded in software. ``guard`` decides which other
    servers an HTTP source may refer to, for example for a playlist's segments. Without ``guard``, only servers with
    public addresses are allowed.

    Raise SourceError if the source cannot be opened or is not a video. SourceDenied, SourceUntrusted, SourceTooLarge,
    SourceStalled and SourceGone are subclasses of SourceError.
    """
    decoding = decoding or Decoding()
    if source.kind == "folder":
        yield open_folder(source, max_pixels, after)
    elif source.kind in {"http", "https"}:
        with open_web(source, guard or AddressGuard(), max_pixels, decoding) as video:
            yield video
    elif source.kind == "tcp":
        with open_tcp(source, max_pixels, decoding) as video:
            yield video
    elif source.kind == "file":
        with _open_file(source, max_pixels, decoding, after) as video:
            yield video
    elif source.kind == "device":
        with open_media(source, Input(source.uri, {}, format="v4l2"), max_pixels, decoding) as video:
            yield video
    else:
        options = {"protocol_whitelist": _PROTOCOLS[source.kind]}
        with open_media(source, Input(source.uri, options), max_pixels, decoding) as video:
            yield video


@contextmanager
def _open_file(source: Source, max_pixels: int, decoding: Decoding, after: Position | None) -> Iterator[Video]:
    """Open a video file. We pass FFmpeg a file descriptor, so that it reads exactly the file that we have checked."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_below(source.root, Path(source.uri)))
            head = file.read(_HEAD_BYTES)
            file.seek(0)
        except OSError as exc:
            raise explain(source, exc, timed_out=False) from None
        if is_still(head):
            raise SourceError(f"{source.name} {_IS_AN_IMAGE}")
        if head.startswith(b"\xff\xd8\xff"):
            yield _video_of_jpegs(source, functools.partial(file.read, _PIECE_BYTES), max_pixels, after)
            return
        options = {"fd": str(file.fileno()), "protocol_whitelist": "fd"}
        try:
            media = Input("fd:", options, has_end=True)
            video = stack.enter_context(open_media(source, media, max_pixels, decoding, after))
        except SourceError as exc:
            if is_picture(head) and not isinstance(exc, SourceTooLarge):
                raise SourceError(f"{source.name} {_IS_AN_IMAGE}") from None
            raise
        yield video


def _video_of_jpegs(source: Source, read: Callable[[], bytes], max_pixels: int, after: Position | None) -> Video:
    jpegs = jpegs_of(source, read, lambda: None, max_pixels)
    try:
        first = [] if is_named_a_picture(Path(source.uri)) else list(itertools.islice(jpegs, 2))
    except SourceTooLarge:
        raise
    except SourceError:
        first = []
    if len(first) < 2:
        raise SourceError(f"{source.name} {_IS_AN_IMAGE}")
    return video_of(itertools.chain(first, jpegs), max_pixels, has_end=True, after=after)
