"""What a video's reader asks of the decoder, and what the decoder does."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.types import DecodedFrames


@dataclass
class Decoding:
    """The settings of a video's decoder, which the capture sets, and its state, which the decoder keeps up to date.

    A source may be reopened with the same object.
    """

    hwaccel: str | None = None  # FFmpeg's name of the hardware that is to decode
    max_fps: float | None = None  # the maximum number of frames per second that the capture takes
    frames: DecodedFrames | None = None  # the frames that are decoded; None while no video is open
    hardware: str | None = None  # the hardware that decodes; None if the video is decoded in software
    detail: str = ""  # the reason why the requested hardware does not decode

    def opened(self) -> None:
        """Record that a video was opened. Its decoder decodes all frames until it has measured the video."""
        self.frames, self.hardware, self.detail = "all", None, ""
