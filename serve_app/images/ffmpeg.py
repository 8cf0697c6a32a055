"""Decode single images with FFmpeg's codecs, through PyAV. FFmpeg's errors never leave this module."""

from __future__ import annotations

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane

from serve_app.errors import Undecodable
from serve_app.types import Pixels

_MARGIN_PX = 64  # codecs allocate whole blocks, so a frame may have up to this many extra columns and rows


def decode_with_ffmpeg(codec_name: str, config: bytes | None, data: bytes, width_px: int, height_px: int) -> VideoFrame:
    """Return the only frame in ``data``. Do not allocate a frame that is much larger than the given size.

    Raise Undecodable when ``data`` is not exactly one frame of the given width and height.
    """
    try:
        codec = av.CodecContext.create(codec_name, "r")
        assert isinstance(codec, VideoCodecContext)
        codec.thread_count = 1
        max_pixels = (width_px + _MARGIN_PX) * (height_px + _MARGIN_PX)
        codec.options = {"max_pixels": str(max_pixels), "err_detect": "explode"}
        if config is not None:
            codec.extradata = config
        frames = [*codec.decode(av.Packet(data)), *codec.decode(None)]
    except (av.FFmpegError, ValueError) as exc:
        raise Undecodable("the image is truncated, corrupt or of an unsupported kind") from exc
    if len(frames) != 1 or frames[0].is_corrupt:
        raise Undecodable("the image is truncated, corrupt or of an unsupported kind")
    if (frames[0].width, frames[0].height) != (width_px, height_px):
        raise Undecodable("the image's size differs from the size in its header")
    return frames[0]


def plane_rows(plane: VideoPlane) -> Pixels:
    """Return the bytes of a plane, row by row, including the padding of each row."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height]
