"""Videos in which each frame encodes its own number as the position of a square."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

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


def frame_shown(pixels: np.ndarray) -> int:
    """Return the number of the frame that has these pixels."""
    rows, columns = np.nonzero(pixels.max(axis=2) > 128)
    return frame_of(columns.min(), rows.min())
