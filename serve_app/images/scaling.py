"""Detections in an image that is scaled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serve_app.detections import Detections, Mask


def scaled(detections: Detections, x: float, y: float) -> Detections:
    """Return the detections in pixels of an image whose width is scaled by ``x`` and whose height is scaled by ``y``.

    The angles of rotated boxes stay, so the factors should be nearly equal. Outlines are left out.
    """
    masks, keypoints, rotated = detections.masks, detections.keypoints, detections.rotated
    box = np.array([x, y, x, y], np.float32)
    return replace(
        detections,
        xyxy=detections.xyxy * box,
        masks=None if masks is None else tuple(Mask(mask.bits, _scaled(mask.xyxy, x, y)) for mask in masks),
        keypoints=None if keypoints is None else keypoints * np.array([x, y, 1], np.float32),
        rotated=None if rotated is None else rotated * np.array([x, y, x, y, 1], np.float32),
        outlines=None,
    )


def _scaled(box: tuple[float, float, float, float], x: float, y: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return left * x, top * y, right * x, bottom * y
