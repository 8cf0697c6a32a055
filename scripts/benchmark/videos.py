"""The video that the streams of a benchmark play, as H.264 at a given size."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import PictureType

from scripts.codes.samples import BELT_FPS, belt_frame, save_video

_BELT_FRAMES = 15 * BELT_FPS
_KEY_FRAME_INTERVAL_S = 2


def save_belt(folder: Path) -> Path:
    """Draw the video of parcels on a belt, and save it in ``folder``. Return its path."""
    return save_video(folder / "belt.mp4", map(belt_frame, range(_BELT_FRAMES)))


def sized(video: Path, size: str, folder: Path) -> Path:
    """Encode a video again at ``size`` (WIDTHxHEIGHT in pixels), as H.264 with a key frame every two seconds.

    The new file is in ``folder``. Return its path. A file that is newer than the video is used again, because encoding
    is slow. The file gets its name when it is complete, so an interrupted run leaves no short video.
    """
    width_px, height_px = map(int, size.split("x"))
    target = folder / f"{video.stem}_{size}.mp4"
    if target.exists() and target.stat().st_mtime > video.stat().st_mtime:
        return target
    unfinished = target.with_suffix(".part")
    with av.open(str(video)) as source, av.open(str(unfinished), "w", format="mp4") as output:
        rate = source.streams.video[0].average_rate or Fraction(25)
        encoder = output.add_stream("libx264", rate=rate)
        encoder.width, encoder.height, encoder.pix_fmt = width_px, height_px, "yuv420p"
        encoder.options = {"preset": "fast", "g": str(round(rate * _KEY_FRAME_INTERVAL_S))}
        for number, frame in enumerate(source.decode(video=0)):
            scaled = frame.reformat(width_px, height_px, "yuv420p")
            scaled.pts, scaled.time_base = number, 1 / Fraction(rate)
            scaled.pict_type = PictureType.NONE  # otherwise, the encoder repeats the key frames of the source
            output.mux(encoder.encode(scaled))
        output.mux(encoder.encode())
    return unfinished.rename(target)


def size_of(video: Path) -> tuple[int, int]:
    """Return the width and the height of a video in pixels."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height
