"""Rotated boxes, as arrays ``(n, 5)``: centre x, centre y, width, height and angle (see ``detections``)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hull_of(xywhr: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the smallest upright box around each rotated box, ``(n, 4)``: left, top, right, bottom."""
    width, height = xywhr[:, 2] / 2, xywhr[:, 3] / 2
    cos, sin = np.abs(np.cos(xywhr[:, 4])), np.abs(np.sin(xywhr[:, 4]))
    half = np.column_stack([width * cos + height * sin, width * sin + height * cos])
    return np.concatenate([xywhr[:, :2] - half, xywhr[:, :2] + half], axis=1)
