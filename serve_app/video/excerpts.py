"""Short videos in requests: their frames as encoded images, a few at a time."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import cv2

from serve_app.errors import SourceError, Undecodable
from serve_app.video.clips import EPSILON_S, frames_between
from serve_app.video.source import Source

_MAX_FRAMES = 16
_MAX_BYTES = 32 << 20  # the frames are sent through a pipe, uncompressed


@dataclass(frozen=True)
class Excerpt:
    """Some of a video's frames."""

    frames: list[bytes]  # BMP files, which are exact, and cheap to write and to read
    read_to_s: float  # the time of the last frame that was read, since the first one; infinite at the video's end
    passed: int  # frames that were left out since the last one in ``frames``


def read_excerpt(video: bytes, max_pixels: int, after_s: float, passed: int, stride: int) -> Excerpt:
    """Return every ``stride``-th frame after ``after_s``, up to 16 frames. Before these, ``passed`` were left out.

    The first frame that is returned has the number ``stride``, counted from 1. Ultralytics' ``LoadImagesAndVideos``
    returns the same frames.

    ``max_pixels`` is the limit for one frame. Raise SourceError if the bytes are not a video, or if a frame is larger.
    """
    source = Source("the video", "the video", "file")
    frames: list[bytes] = []
    size = 0
    start_s = 0.0 if after_s < 0 else after_s + 2 * EPSILON_S
    try:
        for frame in frames_between(source, io.BytesIO(video), max_pixels, start_s, math.inf):
            if passed + 1 < stride:
                passed += 1
                continue
            encoded = cv2.imencode(".bmp", frame.pixels())[1].tobytes()
            frames.append(encoded)
            size, passed = size + len(encoded), 0
            if len(frames) == _MAX_FRAMES or size > _MAX_BYTES:
                return Excerpt(frames, frame.time_s, passed)
    except (SourceError, Undecodable):
        if not frames and after_s < 0:
            raise
        # The video is damaged here, so it ends with the last frame that can be decoded.
    return Excerpt(frames, math.inf, passed)
