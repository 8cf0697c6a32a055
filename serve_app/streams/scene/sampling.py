"""Small copies of frames. They are cheap to make and to compare."""

from __future__ import annotations

from typing import Any

import cv2

from serve_app.types import Pixels

# A frame is sampled at 384 × 216 pixels, which is every fifth row and column of a 1080p frame. All sizes are
# (width, height).
_SAMPLED_PX = (384, 216)


def sample(pixels: Pixels) -> Any:
    """Return some pixels of a frame, as an array of shape (216, 384, 3)."""
    # INTER_NEAREST is fast, because it reads only the sampled pixels.
    return cv2.resize(pixels, _SAMPLED_PX, interpolation=cv2.INTER_NEAREST)


def shrink(sampled: Any, size_px: tuple[int, int]) -> Any:
    """Return sampled pixels as a smaller grey image of ``size_px`` (width, height).

    Each pixel is the mean of several samples, which reduces the noise.
    """
    grey = cv2.cvtColor(sampled, cv2.COLOR_BGR2GRAY)
    return cv2.resize(grey, size_px, interpolation=cv2.INTER_AREA)
