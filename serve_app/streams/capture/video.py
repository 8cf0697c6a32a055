"""An opened source: its pictures one after the other, and why there are no more.

FFmpeg by PyAV. Against OpenCV's FFmpeg it takes the same CPU (0.73 ms a frame of H.264, 768×432, one thread) and gives
the same pixels, but its errors say what happened, its time-outs hold for RTSP too, its options belong to one source and
not to the process, and a frame that is dropped is never converted.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import certifi
import numpy as np
from av.codec.hwaccel import HWAccel

from serve_app.errors import (
    SourceDenied,
    SourceError,
    SourceGone,
    SourceStalled,
    SourceTooLarge,
    SourceUntrusted,
    Undecodable,
)
from serve_app.images.decode import decode
from serve_app.streams.capture.source import Kind, Source, open_below
from serve_app.types import Pixels, Position

logger = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 10.0
_REACH_TIMEOUT_S = 2.0
_MAX_CORRUPT_PACKETS = 1_000  # in a row; then it is no video after all
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
# The protocols that FFmpeg may use for a kind; it would otherwise follow a playlist into local files.
_PROTOCOLS: dict[Kind, str] = {
    "file": "fd",  # one that we have opened
    "http": "http,tcp",
    "https": "https,tls,tcp",
    "rtsp": "rtsp,rtp,tcp,udp",
    "rtsps": "rtsp,rtsps,rtp,tls,tcp",
    "tcp": "tcp",
    "udp": "udp",
}
# What a file may be: not one that names other files, as playlists and scripts of FFmpeg's do.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,h264,hevc,m4v,mjpeg,mpjpeg,ogg,asf,nut,gif,ivf"
_FORMATS: dict[Kind, str] = {
    "file": _CONTAINERS,
    "http": f"{_CONTAINERS},hls",
    "https": f"{_CONTAINERS},hls",
    "rtsp": "rtsp,sdp,rtp",
    "rtsps": "rtsp,sdp,rtp",
    "tcp": _CONTAINERS,
    "udp": _CONTAINERS,
}
# What has no time stamps in it: FFmpeg makes some up, as of 25 frames a second.
_UNTIMED = {"mpjpeg", "mjpeg", "h264", "hevc", "m4v"}
_INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # in which a place is found exactly
_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}

Picture = tuple[Callable[[], Pixels], Position]  # the pixels when asked for


class Video:
    """An opened source. Iterate it once."""

    def __init__(
        self,
        pictures: Iterator[Picture],
        *,
        fps: float | None,
        has_end: bool,
        comes_in_bursts: bool,
        is_timed: bool,
    ) -> None:
        self._pictures = pictures
        self.is_timed = is_timed  # its pictures have time stamps
        self.fps = fps  # as it says itself
        self.has_end = has_end
        self.comes_in_bursts = comes_in_bursts  # faster than a camera sends: whoever wants its pace waits

    def __iter__(self) -> Iterator[Picture]:
        """Raises SourceError."""
        return self._pictures


@contextmanager
def open_video(
    source: Source, *, max_pixels: int, after: Position | None = None, hwaccel: str | None = None
) -> Iterator[Video]:
    """The source, open within the block. Its first picture is the one after ``after``.

    ``hwaccel`` names the kind of hardware that decodes; software does the rest.
    Raises SourceDenied, SourceUntrusted, SourceTooLarge, SourceStalled, SourceGone, or SourceError for what is no
    video.
    """
    if source.kind == "folder":
        yield _folder(source, max_pixels, after)
        return
    limit = {"max_pixels": str(max_pixels)}  # FFmpeg then makes no room for a larger frame
    began_s = time.monotonic()
    try:
        with _addressed(source) as (uri, options):
            container = av.open(
                uri,
                format="v4l2" if source.kind == "device" else None,
                options=options | limit,  # its first frames are decoded to know what it is
                timeout=(_OPEN_TIMEOUT_S, _READ_TIMEOUT_S),
                hwaccel=_hardware(hwaccel) if hwaccel else None,
            )
    except (av.FFmpegError, OSError, ValueError) as exc:
        raise _explain(source, exc, timed_out=time.monotonic() - began_s > 0.9 * _OPEN_TIMEOUT_S) from None
    try:
        if not container.streams.video:
            raise SourceError(f"{source.name} has no video in it")
        stream = container.streams.video[0]
        stream.thread_count = 1  # streams are many: each on a core of its own costs least
        stream.codec_context.options = limit
        if stream.width * stream.height > max_pixels:
            raise _too_large(source, max_pixels)
        is_timed = not source.is_live or container.format.name not in _UNTIMED
        rate: Fraction | None = stream.average_rate if is_timed else None
        has_end = not source.is_live or (source.kind in {"http", "https"} and container.duration is not None)
        pictures = _decoded(source, container, stream, max_pixels)
        if after:
            pictures = _pictures_after(after, pictures, source, container, stream)
        yield Video(
            pictures if is_timed else ((pixels, Position(at.index)) for pixels, at in pictures),
            fps=float(rate) if rate and 0 < rate <= 1000 else None,
            has_end=has_end,
            comes_in_bursts=has_end or container.format.name == "hls",
            is_timed=is_timed,
        )
    finally:
        container.close()


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


@contextmanager
def _addressed(source: Source) -> Iterator[tuple[str, dict[str, str]]]:
    """What FFmpeg is to open within the block, and how. A file is opened here, so that it is one that is allowed."""
    options = _options(source)
    if source.kind != "file":
        yield source.uri, options
        return
    with open_below(source.root, Path(source.uri)) as file:
        yield "fd:", options | {"fd": str(file.fileno())}


def _options(source: Source) -> dict[str, str]:
    kind = source.kind
    if kind == "device":
        return {}
    options = {"protocol_whitelist": _PROTOCOLS[kind], "format_whitelist": _FORMATS[kind]}
    if kind in {"rtsp", "rtsps", "tcp", "udp"}:
        options |= {"analyzeduration": "1000000", "fpsprobesize": "3"}  # us, frames: it is back the sooner
    if kind in {"rtsp", "rtsps"}:
        options |= {"rtsp_transport": "tcp"}
    if _is_verified(source):
        # FFmpeg forgets to check who sends a playlist's segments: none is read then.
        options |= {
            "tls_verify": "1",
            "ca_file": _authorities(),
            "format_whitelist": _FORMATS[kind].removesuffix(",hls"),
        }
    return options


def _is_verified(source: Source) -> bool:
    """FFmpeg checks its certificate."""
    return source.tls_verify and source.kind in {"https", "rtsps"}


def _authorities() -> str:
    """The file of those who vouch for certificates: ``SSL_CERT_FILE``, the system's, or else Mozilla's."""
    return ssl.get_default_verify_paths().cafile or certifi.where()


def _pictures_after(
    after: Position, pictures: Iterator[Picture], source: Source, container: Any, stream: Any
) -> Iterator[Picture]:
    """From the last key frame before it; a container without an index is read from its start."""
    if after.timestamp_s is None or container.format.name not in _INDEXED:
        return ((pixels, at) for pixels, at in pictures if at.index > after.index)
    try:
        container.seek(int(after.timestamp_s / stream.time_base), stream=stream)
    except (av.FFmpegError, OSError) as exc:
        raise _explain(source, exc, timed_out=False) from None
    later = (picture for picture in pictures if (picture[1].timestamp_s or 0) > after.timestamp_s)
    return ((pixels, replace(at, index=index)) for index, (pixels, at) in enumerate(later, after.index + 1))


def _decoded(source: Source, container: Any, stream: Any, max_pixels: int) -> Iterator[Picture]:
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
                    raise _too_large(source, max_pixels) from None
                corrupt += 1
                if not isinstance(exc, av.InvalidDataError) or corrupt > _MAX_CORRUPT_PACKETS:
                    raise
                continue
            for frame in frames:
                if frame.width * frame.height > max_pixels:
                    raise _too_large(source, max_pixels)
                corrupt, index = 0, index + 1
                yield _pixels_of(frame), Position(index, frame.time)
            read_at_s = time.monotonic()
    except (av.FFmpegError, OSError) as exc:
        raise _explain(source, exc, timed_out=time.monotonic() - read_at_s > 0.9 * _READ_TIMEOUT_S) from None
    if index < 0:
        raise SourceError(f"{source.name} has no frame that can be decoded")


def _is_too_large(error: av.FFmpegError, codec: Any, max_pixels: int) -> bool:
    """Each decoder says so by an error of its own, and some have forgotten the size by then."""
    size_px = codec.width * codec.height
    if size_px:
        return size_px > max_pixels or isinstance(error, av.error.OverflowError)
    return isinstance(error, av.ArgumentError) or not codec.is_open


def _too_large(source: Source, max_pixels: int) -> SourceTooLarge:
    return SourceTooLarge(
        f"limits.max_megapixels: {source.name} has pictures of more than {max_pixels // 1_000_000} megapixels",
        limit="limits.max_megapixels",
    )


def _pixels_of(frame: Any) -> Callable[[], Pixels]:
    def pixels() -> Pixels:
        try:
            upright: Pixels = frame.to_ndarray(format="bgr24")
        except (av.FFmpegError, ValueError) as exc:
            raise Undecodable("the frame is of a format that is not read") from exc
        if frame.rotation:  # as a phone held it; counter-clockwise, by quarters
            upright = np.ascontiguousarray(np.rot90(upright, round(frame.rotation / 90) % 4))
        return upright

    return pixels


def _folder(source: Source, max_pixels: int, after: Position | None) -> Video:
    def pictures() -> Iterator[Picture]:
        paths = sorted(path for path in Path(source.uri).iterdir() if path.suffix.lower() in _PICTURES)
        if not paths:
            raise SourceError(f"{source.name} has no picture in it")
        for index in range(after.index + 1 if after else 0, len(paths)):
            yield functools.partial(_read, source.root, paths[index], max_pixels), Position(index)

    return Video(pictures(), fps=None, has_end=True, comes_in_bursts=False, is_timed=False)


def _read(root: Path | None, path: Path, max_pixels: int) -> Pixels:
    try:
        with open_below(root, path) as file:
            return decode(file.read(), max_pixels)
    except (OSError, SourceError) as exc:
        raise Undecodable("a picture of the folder cannot be read") from exc


def _explain(source: Source, exc: Exception, *, timed_out: bool) -> SourceError:
    """What FFmpeg's error means for the stream. FFmpeg's own text names the address, with its credentials: it must not
    come into a log as the cause, either."""
    if isinstance(exc, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError | PermissionError):
        return SourceDenied(f"{source.name} refuses these credentials")
    if _is_verified(source) and (flaw := _flaw_of_certificate(source)):
        return SourceUntrusted(f"{source.name} shows a certificate that is not trusted here ({flaw}): see tls_verify")
    if _is_verified(source) and source.kind == "https" and isinstance(exc, av.ArgumentError):
        return SourceError(f"{source.name} cannot be read as video; HLS over https is read with tls_verify: false only")
    if timed_out and _is_reachable(source):
        return SourceStalled(f"{source.name} is connected and sends no video")
    if timed_out:
        return SourceGone(f"{source.name} does not answer")
    if isinstance(exc, av.InvalidDataError | ValueError):
        return SourceError(f"{source.name} cannot be read as video")
    if isinstance(exc, av.error.HTTPError | av.error.HTTPClientError):
        return SourceGone(f"{source.name} answers with an HTTP error")
    number = getattr(exc, "errno", 0)
    return SourceGone(f"{source.name}: {os.strerror(number) if number in errno.errorcode else 'the connection broke'}")


def _flaw_of_certificate(source: Source) -> str | None:
    """FFmpeg says only that something went wrong."""
    parts = urlsplit(source.uri)
    address = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    try:
        trusted = ssl.create_default_context(cafile=_authorities())
        with (
            socket.create_connection(address, _REACH_TIMEOUT_S) as connection,
            trusted.wrap_socket(connection, server_hostname=parts.hostname),
        ):
            return None
    except ssl.SSLCertVerificationError as exc:
        return exc.verify_message
    except (OSError, ValueError):  # nobody is there, or the host's name is none
        return None


def _is_reachable(source: Source) -> bool:
    """Somebody takes connections there: what sends nothing then is not the network."""
    parts = urlsplit(source.uri)
    if source.kind in {"udp", "file", "device"} or parts.hostname is None:
        return source.kind != "udp"
    try:
        socket.create_connection((parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)), _REACH_TIMEOUT_S).close()
    except OSError:
        return False
    return True
