"""Publish frames as H.264 video to an RTSP server, with FFmpeg.

These functions run in a separate process: see ``ipc.quarantine``. PyAV holds Python's lock while FFmpeg connects, so a
server that does not answer would stop the stream.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from serve_app.errors import Unavailable
from serve_app.video.timestamps import Timestamps

_TIMEOUT_S = 5.0  # for each network operation
_TIME_BASE = Fraction(1, 90_000)  # that of RTP
_KEY_FRAME_INTERVAL_S = 2  # a viewer waits for a key frame
_USUAL_ENCODER = "libx264"
# Encoders of hardware that take frames from the CPU's memory, by the kind of hardware that also decodes.
_HARDWARE_ENCODERS = {"cuda": "h264_nvenc", "qsv": "h264_qsv", "amf": "h264_amf"}
_OPTIONS = {_USUAL_ENCODER: {"preset": "veryfast", "tune": "zerolatency", "crf": "26"}}


@dataclass(frozen=True)
class Channel:
    """Where a video is published, and how."""

    url: str  # with the credentials; the host is an address
    width_px: int
    height_px: int
    max_fps: float
    hwaccel: str | None  # see ``StreamArgs.hwaccel``


class _Publication:
    """A connection to a server."""

    def __init__(self, channel: Channel) -> None:
        options = {"rtsp_transport": "tcp", "timeout": str(round(_TIMEOUT_S * 1e6))}
        self.channel = channel
        self._container: Any = av.open(channel.url, "w", format="rtsp", options=options)
        self._times = Timestamps(channel.max_fps)  # tells large steps of the wall clock from gaps
        self._last_pts = -1
        try:
            encoder = _encoder_for(channel)
            self._stream: Any = self._container.add_stream(encoder, options=_OPTIONS.get(encoder, {}))
            _set_up(self._stream.codec_context, channel)
            self._stream.time_base = _TIME_BASE
            self._container.start_encoding()
        except BaseException:
            self.close()
            raise

    def publish(self, data: bytes, time_s: float) -> None:
        rows = self.channel.height_px * 3 // 2
        frame: Any = av.VideoFrame.from_ndarray(
            np.frombuffer(data, np.uint8).reshape(rows, self.channel.width_px), format="yuv420p"
        )
        # Timestamps must increase.
        self._last_pts = frame.pts = max(self._last_pts + 1, round(self._times.elapsed_s(time_s) / _TIME_BASE))
        frame.time_base = _TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        with suppress(av.FFmpegError, OSError):
            self._container.close()


_publication: _Publication | None = None  # that of this process


def publish(channel: Channel, data: bytes, time_s: float) -> None:
    """Publish a frame. Connect first if no frame was published to the channel, or if the connection has failed.

    ``data``: the frame as planes of Y, U and V (I420). ``time_s``: the wall clock's time of the frame. Raise
    Unavailable if the server cannot be reached or refuses the video. The error contains no credentials.
    """
    global _publication
    started_at_s = time.monotonic()
    try:
        if _publication is None or _publication.channel != channel:
            finish()
            _publication = _Publication(channel)
        _publication.publish(data, time_s)
    except (av.FFmpegError, OSError, ValueError) as exc:
        finish()
        if time.monotonic() - started_at_s > 0.9 * _TIMEOUT_S:
            raise Unavailable(f"the server does not answer within {_TIMEOUT_S:g} s") from None
        # The text of the exception contains the URL
        raise Unavailable(getattr(exc, "strerror", None) or type(exc).__name__) from None


def finish() -> None:
    """Tell the server that the video has ended."""
    global _publication
    if _publication is not None:
        _publication.close()
        _publication = None


def _encoder_for(channel: Channel) -> str:
    """Return the name of the hardware's encoder if it can be opened, else that of the usual encoder."""
    name = _HARDWARE_ENCODERS.get(channel.hwaccel or "")
    if name is None:
        return _USUAL_ENCODER
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # see ``hardware``
    try:
        context: Any = av.CodecContext.create(name, "w")
        _set_up(context, channel)
        context.open()
    except (av.FFmpegError, OSError, ValueError):
        return _USUAL_ENCODER
    return name


def _set_up(context: Any, channel: Channel) -> None:
    context.width, context.height = channel.width_px, channel.height_px
    context.pix_fmt = "yuv420p"
    context.time_base = _TIME_BASE
    context.framerate = Fraction(channel.max_fps).limit_denominator(1000)
    context.gop_size = max(1, round(_KEY_FRAME_INTERVAL_S * channel.max_fps))
    context.max_b_frames = 0
    context.thread_count = 1
