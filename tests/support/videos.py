"""Videos in which each frame encodes its own number as the position of a square."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.frame import PictureType

from tests.support import squares
from tests.support.squares import STRIDE_PX, Square

COLUMNS = 30


def square_of(frame_id: int) -> Square:
    """Return the only square of a frame. The position of the square encodes the number of the frame."""
    return Square("red", frame_id % COLUMNS, frame_id // COLUMNS)


def frame_of(x1: float, y1: float) -> int:
    """Return the number of the frame whose square has this upper left corner."""
    return round(x1 / STRIDE_PX) + COLUMNS * round(y1 / STRIDE_PX)


def save_video(path: Path, *, frames: int, fps: float) -> Path:
    """Save a lossless video with ``frames`` frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), fps, (squares.SIZE_PX, squares.SIZE_PX))
    for frame_id in range(frames):
        writer.write(squares.picture([square_of(frame_id)]))
    writer.release()
    return path


def save_coded_video(
    path: Path,
    *,
    frames: int,
    fps: int = 25,
    keys: Container[int],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """Save a video in which only the frames ``keys`` are key frames. ``options`` are those of FFmpeg's encoder."""
    usual = {"preset": "ultrafast", "forced-idr": "1", "crf": "10"}
    if codec == "libx264":
        usual |= {"g": "10000", "sc_threshold": "0", "bf": "0"}
    elif codec == "libx265":
        usual["x265-params"] = "keyint=10000:scenecut=0:log-level=none"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=usual | (options or {}))
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = squares.SIZE_PX
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(squares.picture([square_of(number)]), "bgr24")
            frame.pict_type = PictureType.I if number in keys else PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frame_shown(pixels: np.ndarray) -> int:
    """Return the number of the frame that has these pixels."""
    blue, green, red = cv2.split(pixels)  # the maximum over an axis of three takes NumPy far longer
    brightest = cv2.max(cv2.max(blue, green), red)
    column_px, row_px, _, _ = cv2.boundingRect((brightest > 128).astype(np.uint8))
    return frame_of(column_px, row_px)
