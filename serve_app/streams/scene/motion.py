"""The motion gate, which skips the model for frames without motion."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from serve_app.schemas.streams import Motion
from serve_app.streams.scene.sampling import sample, shrink
from serve_app.types import Pixels

# The gate compares images of 96 × 54 pixels (width, height). Each of these pixels is the mean of 16 samples, which
# divides the noise by 4.
_SMALL_PX = (96, 54)
_CHANGED = 15  # a pixel has changed if its grey level (0 to 255) differs by more than this


class MotionGate:
    """Selects the frames of a stream that differ from the last selected frame."""

    def __init__(self, motion: Motion) -> None:
        self._motion = motion
        self._last_passed: Any = None  # the last selected frame, scaled down; (54, 96) uint8
        self._last_passed_at_s = 0.0

    def passes(self, pixels: Pixels, at_s: float) -> bool:
        """Return whether a frame is selected.

        A frame is selected if it is the first one, if it differs enough from the last selected frame, or if the last
        selected frame is too old. ``at_s`` is the frame's time on a clock that is never set back.
        """
        small = shrink(sample(pixels), _SMALL_PX)
        if (
            self._last_passed is not None
            and at_s - self._last_passed_at_s < self._motion.max_skip_s
            and _changed_share(small, self._last_passed) < self._motion.threshold
        ):
            return False
        self._last_passed, self._last_passed_at_s = small, at_s
        return True


def _changed_share(small: Any, other: Any) -> float:
    return float(np.mean(cv2.absdiff(small, other) > _CHANGED))
