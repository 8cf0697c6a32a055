"""Reading of a recorded video piece by piece.

Each frame has one time, which does not depend on where reading begins. So the pieces ``[0, 10)``, ``[10, 20)`` and so
on have all frames of the video, and none twice.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import av

from serve_app.errors import SourceError
from serve_app.types import Pixels
from serve_app.video.ffmpeg import Input, decode_pictures, is_indexed, is_untimed, open_container, rate_of
from serve_app.video.jpegs import jpegs_of, video_of
from serve_app.video.pictures import Picture
from serve_app.video.source import Source
from serve_app.video.timestamps import USUAL_FPS, Timestamps

EPSILON_S = 1e-6  # a time that is this little below a border is at the border, because times are rounded
MAX_REORDERED = 16  # how many frames H.264 and HEVC may hold back; files with wrong timestamps mix them up
_JPEG = b"\xff\xd8\xff"
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class TimedPicture:
    """A frame of a recorded video."""

    time_s: float  # since the first frame
    pixels: Callable[[], Pixels]
    index: int | None  # counts from 0; None if reading began in the middle


def packet_times(source: Source, file: BinaryIO, max_pixels: int) -> Iterator[float]:
    """Yield the time of each frame without decoding it. The order is that of the file, and times are approximate.

    Raise SourceError if the file is not a video.
    """
    if _is_mjpeg(file):
        for index, _ in enumerate(_mjpeg(source, file, max_pixels)):
            yield index / USUAL_FPS
        return
    origin_s = _origin_s(source, file, max_pixels)
    file.seek(0)
    with open_container(source, _input(file), max_pixels) as (container, stream):
        is_raw = is_untimed(container, stream)
        fps = rate_of(stream, is_raw, has_end=True)
        stamps = _stamps(fps)
        try:
            for index, packet in enumerate(container.demux(stream)):
                if packet.pts is None and packet.dts is None and not packet.size:
                    return
                stamp = packet.pts if packet.pts is not None else packet.dts
                stamp_s = None if stamp is None else float(stamp * packet.time_base)
                if is_raw:
                    yield index / (fps or USUAL_FPS)
                elif origin_s is not None and stamp_s is not None:
                    yield max(0.0, stamp_s - origin_s)
                else:
                    yield stamps.elapsed_s(None if packet.dts is None else float(packet.dts * packet.time_base))
        except av.FFmpegError:
            return  # the file is damaged here; the last piece reads what can be decoded


def frames_between(
    source: Source, file: BinaryIO, max_pixels: int, start_s: float, end_s: float
) -> Iterator[TimedPicture]:
    """Yield the frames of a video whose times are in ``[start_s, end_s)``.

    In a format with an index, begin at the key frame before ``start_s``. In other formats, decode from the beginning.
    Raise SourceError if the file is not a video, or if no frame can be decoded.
    """
    if _is_mjpeg(file):
        pictures = iter(video_of(_mjpeg(source, file, max_pixels), max_pixels, has_end=True))
        yield from _inside(
            (TimedPicture(at.index / USUAL_FPS, pixels, at.index) for pixels, at in pictures), start_s, end_s, 1
        )
        return
    with open_container(source, _input(file), max_pixels) as (container, stream):
        decoded = functools.partial(decode_pictures, source, _input(file), container, stream, max_pixels)
        pictures = decoded()
        first = next(pictures)
        origin_s = first[1].timestamp_s
        if origin_s is not None and is_indexed(container) and not is_untimed(container, stream):
            pictures = itertools.chain([first], pictures)
            if start_s > 0:
                pictures = _from_key_frame(container, stream, decoded, origin_s, start_s)
            times = _index_times(pictures, origin_s, is_counted=start_s <= 0)
        else:
            times = _counted_times(itertools.chain([first], pictures), container, stream)
        patience = MAX_REORDERED if getattr(stream.codec_context, "has_b_frames", True) else 1
        yield from _inside(times, start_s, end_s, patience)


def _from_key_frame(
    container: Any, stream: Any, decoded: Callable[[], Iterator[Picture]], origin_s: float, start_s: float
) -> Iterator[Picture]:
    """Return the frames from a key frame before ``start_s``.

    The first decoded frame shows whether FFmpeg found such a key frame. If not, look for an earlier one.
    """
    back_s = 0.0
    while True:
        goal_s = max(origin_s, origin_s + start_s - back_s)
        first: Picture | None = None
        try:
            container.seek(int(goal_s / stream.time_base), stream=stream)
            pictures = decoded()
            first = next(pictures, None)
        except (av.FFmpegError, SourceError):
            pictures = iter(())
        time_s = None if first is None else first[1].timestamp_s
        is_early = time_s is not None and time_s <= origin_s + start_s + EPSILON_S
        if is_early or goal_s == origin_s:
            return pictures if first is None else itertools.chain([first], pictures)
        back_s = max(1.0, 2 * back_s)


def _index_times(pictures: Iterator[Picture], origin_s: float, *, is_counted: bool) -> Iterator[TimedPicture]:
    time_s = 0.0
    for pixels, at in pictures:
        if at.timestamp_s is not None:
            time_s = max(0.0, at.timestamp_s - origin_s)
        yield TimedPicture(time_s, pixels, at.index if is_counted else None)


def _counted_times(pictures: Iterator[Picture], container: Any, stream: Any) -> Iterator[TimedPicture]:
    """Yield times that never go back. They are right only if decoding began with the first frame."""
    is_raw = is_untimed(container, stream)
    fps = rate_of(stream, is_raw, has_end=True)
    stamps = _stamps(fps)
    for pixels, at in pictures:
        time_s = at.index / (fps or USUAL_FPS) if is_raw else stamps.elapsed_s(at.timestamp_s)
        yield TimedPicture(time_s, pixels, at.index)


def _inside(times: Iterator[TimedPicture], start_s: float, end_s: float, patience: int) -> Iterator[TimedPicture]:
    """Yield the frames in ``[start_s, end_s)``. Stop after ``patience`` frames in a row that are later."""
    late = 0
    for frame in times:
        if frame.time_s + EPSILON_S >= end_s:
            late += 1
            if late == patience:
                return
            continue
        late = 0
        if frame.time_s + EPSILON_S >= start_s:
            yield frame


def _origin_s(source: Source, file: BinaryIO, max_pixels: int) -> float | None:
    """Return the time stamp of the first frame if times are taken from the index, and else None."""
    with open_container(source, _input(file), max_pixels) as (container, stream):
        _, at = next(decode_pictures(source, _input(file), container, stream, max_pixels))
        return at.timestamp_s if is_indexed(container) and not is_untimed(container, stream) else None


def _stamps(fps: float | None) -> Timestamps:
    # The clock stands still, because times must not depend on how fast the file is read.
    return Timestamps(fps, is_recorded=True, clock_s=lambda: 0.0)


def _input(file: BinaryIO) -> Input:
    return Input(file, {}, has_end=True)


def _is_mjpeg(file: BinaryIO) -> bool:
    file.seek(0)
    head = file.read(len(_JPEG))
    file.seek(0)
    return head == _JPEG


def _mjpeg(source: Source, file: BinaryIO, max_pixels: int) -> Iterator[bytes]:
    return jpegs_of(source, lambda: file.read(_PIECE_BYTES), lambda: None, max_pixels)
