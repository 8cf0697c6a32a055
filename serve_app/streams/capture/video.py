"""A source, opened by what it is."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from serve_app.errors import SourceError, SourceTooLarge
from serve_app.network.address_guard import AddressGuard
from serve_app.streams.capture.failures import explain
from serve_app.streams.capture.ffmpeg import Input, open_media
from serve_app.streams.capture.folder import is_named_a_picture, is_picture, is_still, open_folder
from serve_app.streams.capture.jpegs import jpegs_of, video_of
from serve_app.streams.capture.pictures import Video
from serve_app.streams.capture.source import Kind, Source, open_below
from serve_app.streams.capture.tcp import open_tcp
from serve_app.streams.capture.web_video import open_web
from serve_app.types import Position

# The protocols that FFmpeg may use for a kind; it would otherwise follow an answer into local files.
_PROTOCOLS: dict[Kind, str] = {
    "rtsp": "rtsp,rtp,tcp,udp",
    "rtsps": "rtsp,rtsps,rtp,tls,tcp",
    "udp": "udp",
}
_HEAD_BYTES = 16
_PIECE_BYTES = 1 << 16
_A_PICTURE = "is a picture, not a video: put it into a folder, and name that"


@contextmanager
def open_video(
    source: Source,
    *,
    max_pixels: int,
    after: Position | None = None,
    hwaccel: str | None = None,
    guard: AddressGuard | None = None,
) -> Iterator[Video]:
    """The source, open within the block. Its first picture is the one after ``after``.

    ``hwaccel`` names the kind of hardware that decodes; software does the rest. ``guard`` says which other servers an
    HTTP source may lead to, such as those of a playlist's segments: public ones where it is left out.
    Raises SourceDenied, SourceUntrusted, SourceTooLarge, SourceStalled, SourceGone, or SourceError for what is no
    video.
    """
    if source.kind == "folder":
        yield open_folder(source, max_pixels, after)
    elif source.kind in {"http", "https"}:
        with open_web(source, guard or AddressGuard(), max_pixels, hwaccel) as video:
            yield video
    elif source.kind == "tcp":
        with open_tcp(source, max_pixels, hwaccel) as video:
            yield video
    elif source.kind == "file":
        with _open_file(source, max_pixels, hwaccel, after) as video:
            yield video
    elif source.kind == "device":
        with open_media(source, Input(source.uri, {}, format="v4l2"), max_pixels, hwaccel) as video:
            yield video
    else:
        options = {"protocol_whitelist": _PROTOCOLS[source.kind]}
        with open_media(source, Input(source.uri, options), max_pixels, hwaccel) as video:
            yield video


@contextmanager
def _open_file(source: Source, max_pixels: int, hwaccel: str | None, after: Position | None) -> Iterator[Video]:
    """A video file. It is opened here, so that it is one that is allowed."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_below(source.root, Path(source.uri)))
            head = file.read(_HEAD_BYTES)
            file.seek(0)
        except OSError as exc:
            raise explain(source, exc, timed_out=False) from None
        if is_still(head):
            raise SourceError(f"{source.name} {_A_PICTURE}")
        if head.startswith(b"\xff\xd8\xff"):
            yield _video_of_jpegs(source, functools.partial(file.read, _PIECE_BYTES), max_pixels, after)
            return
        options = {"fd": str(file.fileno()), "protocol_whitelist": "fd"}
        try:
            given = Input("fd:", options, has_end=True)
            video = stack.enter_context(open_media(source, given, max_pixels, hwaccel, after))
        except SourceError as exc:
            if is_picture(head) and not isinstance(exc, SourceTooLarge):
                raise SourceError(f"{source.name} {_A_PICTURE}") from None
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
        raise SourceError(f"{source.name} {_A_PICTURE}")
    return video_of(itertools.chain(first, jpegs), max_pixels, has_end=True, after=after)
