"""What FFmpeg reads: files, streams and what a web server sends, frame after frame.

FFmpeg by PyAV. Against OpenCV's FFmpeg it takes the same CPU (0.73 ms a frame of H.264, 768×432, one thread) and gives
the same pixels, but its errors say what happened, its time-outs hold for RTSP too, its options belong to one source and
not to the process, and a frame that is dropped is never converted.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import av
from av.codec.hwaccel import HWAccel

from serve_app.errors import SourceError, SourceStalled, Undecodable
from serve_app.streams.capture.failures import authorities, explain, is_verified, too_large
from serve_app.streams.capture.orientation import matrix_of, upright
from serve_app.streams.capture.pictures import Picture, Video
from serve_app.streams.capture.source import Source
from serve_app.streams.capture.timestamps import USUAL_FPS
from serve_app.streams.capture.tracks import find_video
from serve_app.types import Pixels, Position

logger = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 10.0
_MAX_CORRUPT_PACKETS = 1_000  # in a row; then it is no video after all
# What a file may be: not one that names other files, as playlists and scripts of FFmpeg's do.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,h264,hevc,m4v,mjpeg,mpjpeg,ogg,asf,nut,gif,ivf"
# What has no time stamps in it: FFmpeg makes some up for some, as of 25 frames a second.
_UNTIMED = {"mpjpeg", "mjpeg", "h264", "hevc", "m4v"}
_MAX_FPS = 1000  # a container that says more has no time stamps that are any use
_INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # in which a place is found exactly


class Body(Protocol):
    """A file that is read from elsewhere, and so by Python. One that has ``seek`` and ``tell``, too, is sought in."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Input:
    """What FFmpeg is to open, and how."""

    resource: str | Body
    options: dict[str, str]
    format: str | None = None  # by FFmpeg's name; None: as it looks
    has_end: bool = False
    comes_in_bursts: bool = False
    renew: Callable[[], None] = lambda: None  # called when a frame has come


@contextmanager
def open_media(
    source: Source, given: Input, max_pixels: int, hwaccel: str | None = None, after: Position | None = None
) -> Iterator[Video]:
    """The video in it, open within the block. Raises SourceError; see ``open_video``."""
    limit = {"max_pixels": str(max_pixels)}  # FFmpeg then makes no room for a larger frame
    container = _open(source, given, limit, hwaccel)
    try:
        stream = find_video(container, source.name)
        stream.thread_count = 1  # streams are many: each on a core of its own costs least
        stream.codec_context.options = limit
        if stream.width * stream.height > max_pixels:
            raise too_large(source, max_pixels)
        is_raw = container.format.name in _UNTIMED or (stream.average_rate or 0) > _MAX_FPS
        has_end = given.has_end or (source.kind in {"http", "https"} and container.duration is not None)
        pictures = _decoded(source, given, container, stream, max_pixels)
        if after:
            pictures = _pictures_after(after, pictures, source, container, stream)
        yield Video(
            ((pixels, Position(at.index)) for pixels, at in pictures) if is_raw else pictures,
            fps=_rate_of(stream, is_raw, has_end),
            has_end=has_end,
            comes_in_bursts=has_end or given.comes_in_bursts,
        )
    finally:
        container.close()


def _open(source: Source, given: Input, limit: dict[str, str], hwaccel: str | None) -> Any:
    began_s = time.monotonic()
    try:
        with _log_of(source) as lines, _no_proxy(source):
            return av.open(
                given.resource,
                format=given.format,
                options=_options(source) | given.options | limit,  # its first frames are decoded to know what it is
                timeout=(_OPEN_TIMEOUT_S, _READ_TIMEOUT_S),
                hwaccel=_hardware(hwaccel) if hwaccel else None,
            )
    except (av.FFmpegError, OSError, ValueError) as exc:
        timed_out = time.monotonic() - began_s > 0.9 * _OPEN_TIMEOUT_S
        raise explain(source, exc, timed_out=timed_out, said="\n".join(lines)) from None


@contextmanager
def _log_of(source: Source) -> Iterator[list[str]]:
    """What FFmpeg says of a camera in its log, which comes into no other log: it names addresses with passwords."""
    lines: list[str] = []
    if source.kind not in {"rtsp", "rtsps"}:
        yield lines
        return
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as said:
            yield lines
    finally:
        av.logging.set_level(level)
        lines += [message for _, _, message in said]


@contextmanager
def _no_proxy(source: Source) -> Iterator[None]:
    """FFmpeg's TLS would ask the proxy that the environment names for HTTP, even of a camera next door, and has no
    option against it. Only FFmpeg sees this: ``os.environ`` stays as it is."""
    if source.kind != "rtsps":
        yield
        return
    os.putenv("no_proxy", "*")
    try:
        yield
    finally:
        if (before := os.environ.get("no_proxy")) is None:
            os.unsetenv("no_proxy")
        else:
            os.putenv("no_proxy", before)


@functools.cache
def _hardware(kind: str) -> HWAccel | None:
    """None, said once in the log, where there is no such hardware: to open a video would fail then."""
    # Ray hides the GPUs from a process that asks for no share of one. A decoder is a part of its own in a GPU.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        hardware = HWAccel(kind, allow_software_fallback=True)
        hardware.create(av.Codec("h264", "r"))
    except (av.FFmpegError, OSError, ValueError, NotImplementedError) as exc:
        logger.warning("no %s hardware decodes video here (%s): software does", kind, type(exc).__name__)
        return None
    return hardware


def _options(source: Source) -> dict[str, str]:
    if source.kind == "device":
        return {}
    if source.kind not in {"rtsp", "rtsps"}:
        live = {"analyzeduration": "1000000", "fpsprobesize": "3"}  # us, frames: it is back the sooner
        return {"format_whitelist": _CONTAINERS} | (live if source.kind in {"tcp", "udp"} else {})
    options = {"format_whitelist": "rtsp,sdp,rtp", "analyzeduration": "1000000", "fpsprobesize": "3"}
    options |= {"rtsp_transport": "tcp"}
    if is_verified(source):
        options |= {"tls_verify": "1", "ca_file": authorities()}
    return options


def _rate_of(stream: Any, is_raw: bool, has_end: bool) -> float | None:
    """Frames per second, as the source says itself. Of a raw one, FFmpeg's average is an assumption: its headers say
    it, or nobody does, and what is recorded then plays at the usual rate."""
    rate: Fraction | None = stream.codec_context.framerate if is_raw else stream.average_rate
    if rate and 0 < rate <= _MAX_FPS:
        return float(rate)
    return USUAL_FPS if is_raw and has_end else None


def _pictures_after(
    after: Position, pictures: Iterator[Picture], source: Source, container: Any, stream: Any
) -> Iterator[Picture]:
    """From the last key frame before it; a container without an index is read from its start."""
    if after.timestamp_s is None or container.format.name not in _INDEXED:
        return ((pixels, at) for pixels, at in pictures if at.index > after.index)
    try:
        container.seek(int(after.timestamp_s / stream.time_base), stream=stream)
    except (av.FFmpegError, OSError) as exc:
        raise explain(source, exc, timed_out=False) from None
    later = (picture for picture in pictures if (picture[1].timestamp_s or 0) > after.timestamp_s)
    return ((pixels, replace(at, index=index)) for index, (pixels, at) in enumerate(later, after.index + 1))


def _decoded(source: Source, given: Input, container: Any, stream: Any, max_pixels: int) -> Iterator[Picture]:
    """A packet that cannot be decoded is passed over: a camera's next key frame mends it."""
    read_at_s = time.monotonic()
    corrupt, index = 0, -1
    try:
        for packet in container.demux():  # all of it: sound that goes on must not pass for video
            if packet.stream is not stream:
                if time.monotonic() - read_at_s > _READ_TIMEOUT_S:
                    raise SourceStalled(f"{source.name} sends sound and no video")
                continue
            try:
                frames = packet.decode()
            except av.FFmpegError as exc:
                if _is_too_large(exc, stream.codec_context, max_pixels):
                    raise too_large(source, max_pixels) from None
                corrupt += 1
                if not isinstance(exc, av.InvalidDataError) or corrupt > _MAX_CORRUPT_PACKETS:
                    raise
                continue
            for frame in frames:
                if frame.width * frame.height > max_pixels:
                    raise too_large(source, max_pixels)
                corrupt, index = 0, index + 1
                yield _pixels_of(frame), Position(index, frame.time)
            read_at_s = time.monotonic()
            given.renew()
    except (av.FFmpegError, OSError) as exc:
        raise explain(source, exc, timed_out=time.monotonic() - read_at_s > 0.9 * _READ_TIMEOUT_S) from None
    if index < 0:
        raise SourceError(f"{source.name} has no frame that can be decoded")


def _is_too_large(error: av.FFmpegError, codec: Any, max_pixels: int) -> bool:
    """Each decoder says so by an error of its own, and some have forgotten the size by then."""
    size_px = codec.width * codec.height
    if size_px:
        return size_px > max_pixels or isinstance(error, av.error.OverflowError)
    return isinstance(error, av.ArgumentError) or not codec.is_open


def _pixels_of(frame: Any) -> Callable[[], Pixels]:
    def pixels() -> Pixels:
        try:
            stored: Pixels = frame.to_ndarray(format="bgr24")
        except (av.FFmpegError, ValueError) as exc:
            raise Undecodable("the frame is of a format that is not read") from exc
        return upright(stored, matrix_of(frame))

    return pixels
