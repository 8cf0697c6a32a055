"""Make objects in an image unrecognisable."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.types import Pixels

# What is left of a box, per side. A Gaussian blur could be reversed in part, but lost pixels cannot.
_BLOCKS = 8
_MIN_BLOCK_PX = 4
_MARGIN = 0.05  # of the box's width or height, because hair and hands often extend beyond a box


def blur(pixels: Pixels, boxes: NDArray[np.float32]) -> Pixels:
    """Return a copy of the image in which the boxes are blurred, each with a margin.

    ``boxes`` has the shape (n, 4): left, top, right and bottom in pixels. The mean colours of at most 8×8 parts of
    each box are left.
    """
    blurred = pixels.copy()
    height_px, width_px = pixels.shape[:2]
    for left, top, right, bottom in boxes.tolist():
        x, y = (right - left) * _MARGIN, (bottom - top) * _MARGIN
        rows = slice(max(math.floor(top - y), 0), min(math.ceil(bottom + y), height_px))
        columns = slice(max(math.floor(left - x), 0), min(math.ceil(right + x), width_px))
        region = pixels[rows, columns]
        if region.size:
            height, width = region.shape[:2]
            size = _blocks(width), _blocks(height)
            blocks = cv2.resize(region, size, interpolation=cv2.INTER_AREA)
            blurred[rows, columns] = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_LINEAR)
    return blurred


def _blocks(side_px: int) -> int:
    return max(1, min(_BLOCKS, side_px // _MIN_BLOCK_PX))
