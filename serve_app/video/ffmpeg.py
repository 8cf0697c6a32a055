"""Reading of frames with FFmpeg, from files, live streams and web servers.

We use FFmpeg through PyAV. PyAV takes the same CPU time as OpenCV's FFmpeg (0.73 ms per H.264 frame of 768×432, one
thread) and returns the same pixels. PyAV has four advantages over OpenCV: errors say what happened, timeouts also work
for RTSP, options apply to one source instead of the whole process, and dropped frames are not converted to pixels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import av
from av.codec.hwaccel import HWAccel

from serve_app.errors import SourceError, SourceStalled, Undecodable
from serve_app.types import Pixels, Position
from serve_app.video.decoding import Decoding
from serve_app.video.failures import captured_log, explain, is_verified, too_large, trusted_ca_file
from serve_app.video.hardware import SeparateDecoder, find_decoder, note_frame, open_accelerator
from serve_app.video.orientation import matrix_of, upright
from serve_app.video.pictures import Picture, Video
from serve_app.video.selection import SelectiveDecoder
from serve_app.video.source import Source
from serve_app.video.timestamps import USUAL_FPS
from serve_app.video.tracks import find_video

_OPEN_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 10.0
_MAX_CORRUPT_PACKETS = 1_000  # a source with more corrupt packets in a row is not a video
# The allowed containers. Playlists and FFmpeg's scripts are excluded, because they can name other files.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,h264,hevc,m4v,mjpeg,mpjpeg,ogg,asf,nut,gif,ivf"
# Formats without timestamps. For some of these formats, FFmpeg invents timestamps for 25 frames per second.
_UNTIMED = {"mpjpeg", "mjpeg", "h264", "hevc", "m4v"}
_MAX_FPS = 1000  # containers that declare more have unusable timestamps
_INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # formats in which FFmpeg seeks exactly


class Body(Protocol):
    """A file-like object from which FFmpeg reads. FFmpeg can seek in it if it has ``seek`` and ``tell``."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Input:
    """The resource that FFmpeg opens, and the options for it."""

    resource: str | Body
    options: dict[str, str]
    format: str | None = None  # FFmpeg's name for the format; None to detect it
    has_end: bool = False
    comes_in_bursts: bool = False
    reset_timeout: Callable[[], None] = lambda: None  # called after each frame


@contextmanager
def open_media(
    source: Source, media: Input, max_pixels: int, decoding: Decoding, after: Position | None = None
) -> Iterator[Video]:
    """Open an input for the duration of the ``with`` block, and yield its video.

    Raise SourceError as ``open_video`` does.
    """
    decoding.opened()
    accelerator = open_accelerator(decoding)
    with open_container(source, media, max_pixels, accelerator) as (container, stream):
        is_raw = is_untimed(container, stream)
        has_end = media.has_end or (source.kind in {"http", "https"} and container.duration is not None)
        separate = find_decoder(stream, accelerator, decoding)
        pictures = decode_pictures(source, media, container, stream, max_pixels, decoding, separate)
        if after:
            pictures = _pictures_after(after, pictures, source, container, stream)
        yield Video(
            ((pixels, Position(at.index)) for pixels, at in pictures) if is_raw else pictures,
            fps=rate_of(stream, is_raw, has_end),
            has_end=has_end,
            comes_in_bursts=has_end or media.comes_in_bursts,
        )


@contextmanager
def open_container(
    source: Source, media: Input, max_pixels: int, accelerator: HWAccel | None = None
) -> Iterator[tuple[Any, Any]]:
    """Open an input for the duration of the ``with`` block, and yield PyAV's container and its video track.

    Raise SourceError as ``open_video`` does.
    """
    limit = {"max_pixels": str(max_pixels)}  # keeps FFmpeg from allocating larger frames
    container = _open(source, media, limit, accelerator)
    try:
        stream = find_video(container, source.name)
        stream.thread_count = 1  # decoding with one thread takes the least CPU time per stream
        stream.codec_context.options = limit
        if stream.width * stream.height > max_pixels:
            raise too_large(source, max_pixels)
        yield container, stream
    finally:
        container.close()


def is_untimed(container: Any, stream: Any) -> bool:
    """Return whether the track has no timestamps, or only unusable ones."""
    return container.format.name in _UNTIMED or (stream.average_rate or 0) > _MAX_FPS


def is_indexed(container: Any) -> bool:
    """Return whether FFmpeg seeks exactly in this format."""
    return container.format.name in _INDEXED


def _open(source: Source, media: Input, limit: dict[str, str], accelerator: HWAccel | None) -> Any:
    started_at_s = time.monotonic()
    log = captured_log() if source.kind in {"rtsp", "rtsps"} else nullcontext(list[str]())
    try:
        with log as lines, _no_proxy(source):
            return av.open(
                media.resource,
                format=media.format,
                options=_options(source) | media.options | limit,  # the limit must apply while FFmpeg probes, too
                timeout=(_OPEN_TIMEOUT_S, _READ_TIMEOUT_S),
                hwaccel=accelerator,
            )
    except (av.FFmpegError, OSError, ValueError) as exc:
        timed_out = time.monotonic() - started_at_s > 0.9 * _OPEN_TIMEOUT_S
        raise explain(source, exc, timed_out=timed_out, log_text="\n".join(lines)) from None


@contextmanager
def _no_proxy(source: Source) -> Iterator[None]:
    """Keep FFmpeg from connecting to an RTSPS camera through the environment's HTTP proxy.

    FFmpeg would use the proxy even for a camera on the LAN, and has no option to turn that off. So we set ``no_proxy``
    with ``os.putenv``, which affects FFmpeg but not ``os.environ``.
    """
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


def _options(source: Source) -> dict[str, str]:
    if source.kind == "device":
        return {}
    if source.kind not in {"rtsp", "rtsps"}:
        # ``analyzeduration`` is in µs, and ``fpsprobesize`` is in frames. Both limits are low, so that a lost source is
        # reopened quickly.
        live = {"analyzeduration": "1000000", "fpsprobesize": "3"}
        return {"format_whitelist": _CONTAINERS} | (live if source.kind in {"tcp", "udp"} else {})
    options = {"format_whitelist": "rtsp,sdp,rtp", "analyzeduration": "1000000", "fpsprobesize": "3"}
    options |= {"rtsp_transport": "tcp"}
    if is_verified(source):
        options |= {"tls_verify": "1", "ca_file": trusted_ca_file()}
    return options


def rate_of(stream: Any, is_raw: bool, has_end: bool) -> float | None:
    """Return the frame rate that the source declares, in frames per second.

    FFmpeg invents the average rate of a source without timestamps, so we use the rate in the codec's headers instead. A
    recording with neither timestamps nor a declared rate plays at 25 frames per second.
    """
    rate: Fraction | None = stream.codec_context.framerate if is_raw else stream.average_rate
    if rate and 0 < rate <= _MAX_FPS:
        return float(rate)
    return USUAL_FPS if is_raw and has_end else None


def _pictures_after(
    after: Position, pictures: Iterator[Picture], source: Source, container: Any, stream: Any
) -> Iterator[Picture]:
    """Return the images after a position.

    In a format with an index, seek to the key frame before the position. In other formats, decode from the start.
    """
    if after.timestamp_s is None or not is_indexed(container):
        return ((pixels, at) for pixels, at in pictures if at.index > after.index)
    try:
        container.seek(int(after.timestamp_s / stream.time_base), stream=stream)
    except (av.FFmpegError, OSError) as exc:
        raise explain(source, exc, timed_out=False) from None
    later = (picture for picture in pictures if (picture[1].timestamp_s or 0) > after.timestamp_s)
    return ((pixels, replace(at, index=index)) for index, (pixels, at) in enumerate(later, after.index + 1))


def decode_pictures(
    source: Source,
    media: Input,
    container: Any,
    stream: Any,
    max_pixels: int,
    decoding: Decoding | None = None,
    separate: SeparateDecoder | None = None,
) -> Iterator[Picture]:
    """Yield the images, decoded as ``decoding`` says, by the track's own decoder unless ``separate`` is another one.

    Skip packets that cannot be decoded, because decoding recovers at the next key frame.
    """
    decoding = decoding or Decoding()
    codec = separate.context if separate else stream.codec_context

    def to_pixels(frame: Any) -> Callable[[], Pixels]:
        if frame.width * frame.height > max_pixels:
            raise too_large(source, max_pixels)
        note_frame(codec, decoding)
        return _pixels_of(frame, separate)

    max_fps = None if is_untimed(container, stream) else decoding.max_fps
    decoder = SelectiveDecoder(codec, stream.time_base, decoding, max_fps, to_pixels)
    read_at_s = time.monotonic()
    corrupt, index = 0, -1
    try:
        for packet in container.demux():  # packets of all tracks, to notice if only sound arrives
            if packet.stream is not stream:
                if time.monotonic() - read_at_s > _READ_TIMEOUT_S:
                    raise SourceStalled(f"{source.name} sends sound but no video")
                continue
            if separate:
                separate.find_matrix(packet)
            try:
                for pixels, time_s in decoder.pictures(packet):
                    corrupt, index = 0, index + 1
                    yield pixels, Position(index, time_s)
            except av.FFmpegError as exc:
                if _is_too_large(exc, codec, max_pixels):
                    raise too_large(source, max_pixels) from None
                corrupt += 1
                if not isinstance(exc, av.InvalidDataError) or corrupt > _MAX_CORRUPT_PACKETS:
                    raise
                continue
            read_at_s = time.monotonic()
            media.reset_timeout()
    except (av.FFmpegError, OSError) as exc:
        raise explain(source, exc, timed_out=time.monotonic() - read_at_s > 0.9 * _READ_TIMEOUT_S) from None
    if index < 0:
        raise SourceError(f"{source.name} has no frame that can be decoded")


def _is_too_large(error: av.FFmpegError, codec: Any, max_pixels: int) -> bool:
    """Return whether a decoder refused a frame because the frame is too large.

    Decoders raise different errors for such a frame, and some decoders then report a frame size of 0.
    """
    size_px = codec.width * codec.height
    if size_px:
        return size_px > max_pixels or isinstance(error, av.error.OverflowError)
    return isinstance(error, av.ArgumentError) or not codec.is_open


def _pixels_of(frame: Any, separate: SeparateDecoder | None) -> Callable[[], Pixels]:
    def pixels() -> Pixels:
        try:
            stored: Pixels = frame.to_ndarray(format="bgr24")
        except (av.FFmpegError, ValueError) as exc:
            raise Undecodable("the frame's pixel format is not supported") from exc
        return upright(stored, separate.matrix if separate else matrix_of(frame))

    return pixels
