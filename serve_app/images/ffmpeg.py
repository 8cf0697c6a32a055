"""FFmpeg's codecs for single pictures, by way of PyAV. Their errors end here."""

from __future__ import annotations

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane

from serve_app.errors import Undecodable
from serve_app.types import Pixels

_MARGIN_PX = 64  # codecs allocate whole blocks: pictures of up to so many more columns and rows


def decoded(codec_name: str, config: bytes | None, data: bytes, width_px: int, height_px: int) -> VideoFrame:
    """Return the one frame that ``data`` holds, of this size: the codec may allocate no larger one.

    Raises Undecodable.
    """
    try:
        codec = av.CodecContext.create(codec_name, "r")
        assert isinstance(codec, VideoCodecContext)
        codec.thread_count = 1
        most_pixels = (width_px + _MARGIN_PX) * (height_px + _MARGIN_PX)
        codec.options = {"max_pixels": str(most_pixels), "err_detect": "explode"}
        if config is not None:
            codec.extradata = config
        frames = [*codec.decode(av.Packet(data)), *codec.decode(None)]
    except (av.FFmpegError, ValueError) as exc:
        raise Undecodable("the picture is truncated, corrupt or of a variant that is not read") from exc
    if len(frames) != 1 or frames[0].is_corrupt:
        raise Undecodable("the picture is truncated, corrupt or of a variant that is not read")
    if (frames[0].width, frames[0].height) != (width_px, height_px):
        raise Undecodable("the picture has another size than its header says")
    return frames[0]


def rows_of(plane: VideoPlane) -> Pixels:
    """Return the bytes of a plane, row by row, with what fills its lines."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height]
