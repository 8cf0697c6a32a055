"""The view of a camera without what moves in it, now and usually."""

from __future__ import annotations

import base64
import binascii
from collections import deque
from typing import Any

import cv2
import numpy as np

from serve_app.streams.scene.detail import BLOCKS, SIZE_PX, Detail, detail_of

_KEPT = 9  # samples; what is in front of the background in fewer than half of them does not show in their median
_ENOUGH = 5
_MIN_NOISE = 0.5  # in grey levels; the rounding of the samples alone is 0.3
_MEDIAN_NOISE = 0.42  # the noise of the median of 9 values, relative to the noise of one value
_DIFFERENCE_OF_NOISE = 1.13  # the mean absolute difference of two values whose noise has a standard deviation of 1
_ADAPTS_IN_S = 600.0  # long enough that a passer-by leaves no trace, and shorter than dusk
_JPEG_QUALITY = 75


class CurrentView:
    """The median of the last samples of a stream. It does not show what moves."""

    def __init__(self) -> None:
        self._samples: deque[Any] = deque(maxlen=_KEPT)  # each (108, 192) uint8
        self._noise = 0.0  # the standard deviation of the noise of one sample, in grey levels

    def clear(self) -> None:
        """Forget all samples of the view."""
        self._samples.clear()

    def add(self, grey: Any) -> None:
        """Add a sample of ``SIZE_PX``."""
        if self._samples:
            difference = cv2.absdiff(grey, self._samples[-1])
            # The median over the blocks, because most of the picture does not move.
            by_block = cv2.resize(difference.astype(np.float32), BLOCKS, interpolation=cv2.INTER_AREA)
            self._noise = float(np.median(by_block)) / _DIFFERENCE_OF_NOISE
        self._samples.append(grey)

    def median(self) -> tuple[Any, float] | None:
        """Return the view as a grey picture of ``SIZE_PX``, and its noise. Return None if there are too few samples."""
        if len(self._samples) < _ENOUGH:
            return None
        return _median(list(self._samples)), max(_MEDIAN_NOISE * self._noise, _MIN_NOISE)


class UsualView:
    """The usual view of a camera, which follows slow changes such as dusk."""

    def __init__(self, jpeg: str = "") -> None:
        """Continue with a view that ``to_jpeg`` returned."""
        self._picture: Any = _decoded(jpeg)  # (108, 192) float32, or None
        self.detail: Detail | None = None
        self._refresh()

    def replace(self, grey: Any) -> None:
        """Make a grey picture of ``SIZE_PX`` the usual view."""
        self._picture = grey.astype(np.float32)
        self._refresh()

    def follow(self, grey: Any, elapsed_s: float) -> None:
        """Change the usual view slightly, towards the view of the last ``elapsed_s`` seconds."""
        self._picture += (grey - self._picture) * min(elapsed_s / _ADAPTS_IN_S, 1.0)
        self._refresh()

    def to_jpeg(self) -> str:
        """Return the view as a JPEG in base64, which has a few kilobytes. It is empty if there is no usual view."""
        if self._picture is None:
            return ""
        encoded = cv2.imencode(".jpg", self._rounded(), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        return base64.b64encode(encoded.tobytes()).decode()

    def _refresh(self) -> None:
        self.detail = None if self._picture is None else detail_of(self._rounded(), _MIN_NOISE)

    def _rounded(self) -> Any:
        return np.rint(self._picture).astype(np.uint8)


def _decoded(jpeg: str) -> Any:
    try:
        data = np.frombuffer(base64.b64decode(jpeg), np.uint8)
        grey = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
    except (binascii.Error, cv2.error):  # the machine lost power during a write
        grey = None
    return None if grey is None or grey.shape[::-1] != SIZE_PX else grey.astype(np.float32)


def _median(pictures: list[Any]) -> Any:
    """Return the median of each pixel.

    This is a selection sort of whole pictures, up to the middle one. It is ten times as fast as ``np.median``, because
    OpenCV compares many pixels at once.
    """
    middle = len(pictures) // 2
    for first in range(middle + 1):
        for other in range(first + 1, len(pictures)):
            low, high = cv2.min(pictures[first], pictures[other]), cv2.max(pictures[first], pictures[other])
            pictures[first], pictures[other] = low, high
    return pictures[middle]
