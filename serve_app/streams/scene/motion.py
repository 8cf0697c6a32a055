"""Whether anything moved: frames in which nothing did need no model."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from serve_app.schemas.streams import Motion
from serve_app.types import Pixels

_SAMPLED_PX = (384, 216)  # of the picture's pixels: one in five each way, at 1080p
_SMALL_PX = (96, 54)  # what is compared: the mean of 16 samples each, which has a quarter of their noise
_CHANGED = 15  # of 255


class MotionGate:
    """Lets the frames of one stream pass in which something moved."""

    def __init__(self, motion: Motion) -> None:
        self._motion = motion
        self._passed: Any = None  # the last frame that passed, small: (54, 96) uint8
        self._passed_at_s = 0.0

    def passes(self, pixels: Pixels, at_s: float) -> bool:
        """True for the first frame, for one that differs enough from the last one that passed, and when that was too
        long ago. ``at_s`` is of a clock that never goes back."""
        small = _small(pixels)
        if (
            self._passed is not None
            and at_s - self._passed_at_s < self._motion.max_skip_s
            and _changed_share(small, self._passed) < self._motion.threshold
        ):
            return False
        self._passed, self._passed_at_s = small, at_s
        return True


def _small(pixels: Pixels) -> Any:
    sampled = cv2.resize(pixels, _SAMPLED_PX, interpolation=cv2.INTER_NEAREST)  # reads no more pixels than it returns
    grey = cv2.cvtColor(sampled, cv2.COLOR_BGR2GRAY)
    return cv2.resize(grey, _SMALL_PX, interpolation=cv2.INTER_AREA)


def _changed_share(small: Any, other: Any) -> float:
    return float(np.mean(cv2.absdiff(small, other) > _CHANGED))
