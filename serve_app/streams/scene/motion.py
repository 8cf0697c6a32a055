"""The motion gate, which lets still frames skip the model."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from serve_app.schemas.streams import Motion
from serve_app.types import Pixels

_SAMPLED_PX = (384, 216)  # width, height of the sampled grid: every fifth pixel each way, at 1080p
_SMALL_PX = (96, 54)  # width, height of the compared image: each pixel is the mean of 16 samples, with 1/4 the noise
_CHANGED = 15  # of 255: a pixel that differs by more has changed


class MotionGate:
    """Lets only those frames of a stream pass in which something moved."""

    def __init__(self, motion: Motion) -> None:
        self._motion = motion
        self._last_passed: Any = None  # the last frame that passed, downscaled: (54, 96) uint8
        self._last_passed_at_s = 0.0

    def passes(self, pixels: Pixels, at_s: float) -> bool:
        """Return whether a frame passes: the first one, and each that differs enough from the last one that passed.

        A frame also passes if the last one passed too long ago. ``at_s`` is the frame's time on a monotonic clock.
        """
        small = _downscale(pixels)
        if (
            self._last_passed is not None
            and at_s - self._last_passed_at_s < self._motion.max_skip_s
            and _changed_share(small, self._last_passed) < self._motion.threshold
        ):
            return False
        self._last_passed, self._last_passed_at_s = small, at_s
        return True


def _downscale(pixels: Pixels) -> Any:
    sampled = cv2.resize(pixels, _SAMPLED_PX, interpolation=cv2.INTER_NEAREST)  # reads no more pixels than it returns
    grey = cv2.cvtColor(sampled, cv2.COLOR_BGR2GRAY)
    return cv2.resize(grey, _SMALL_PX, interpolation=cv2.INTER_AREA)


def _changed_share(small: Any, other: Any) -> float:
    return float(np.mean(cv2.absdiff(small, other) > _CHANGED))
