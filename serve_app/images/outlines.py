"""Outlines of masks, as results describe them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Detections, Mask, Rings
from serve_app.outlines import rle_of
from serve_app.types import MaskFormat

Outline: TypeAlias = NDArray[Any]  # (n, 1, 2): points as OpenCV has them

# Half pixels of the bitmap by which an outline may be simplified, which removes the stairs of slanted edges: at most
# the first value, and at most this share of the bitmap's shorter side, because a small object has few pixels.
_TOLERANCE, _TOLERANCE_SHARE = 1.5, 1 / 40
_PIXEL = np.ones((3, 3), np.uint8)
_MAX_AREA_CHANGE = 0.05  # an outline whose area would change by a larger share, such as that of a pole, stays as it is


def with_outlines(detections: Detections, width_px: int, height_px: int, kind: MaskFormat) -> Detections:
    """Return the detections in an image of this size with descriptions of their masks, if they have masks.

    This takes up to a millisecond for each ten objects, so call it outside of the event loop.
    """
    masks = detections.masks
    if masks is None:
        return detections
    if kind == "rle":
        return replace(detections, outlines=tuple(rle_of(mask, width_px, height_px) for mask in masks))
    return replace(detections, outlines=tuple(rings_of(mask) for mask in masks))


def rings_of(mask: Mask) -> Rings:
    """Return the outer outlines of a mask in pixels of the image, the largest first. An empty mask has none.

    The outlines follow the outer edges of the bitmap's pixels, so an outline of one pixel has an area, too. They differ
    from these edges by at most three quarters of a pixel of the bitmap.
    """
    rows, columns = mask.bits.shape
    # In a grid of half pixels, pixel centres are at odd places and the pixels' corners at even places.
    grid = np.zeros((2 * rows + 1, 2 * columns + 1), np.uint8)
    grid[1::2, 1::2] = mask.bits
    grid = cv2.dilate(grid, _PIXEL)
    outlines, _ = cv2.findContours(grid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    tolerance = min(_TOLERANCE, min(grid.shape) * _TOLERANCE_SHARE)
    left, top, right, bottom = mask.xyxy
    scale = np.array([(right - left) / (2 * columns), (bottom - top) / (2 * rows)])
    rings = [
        _simplified(outline, tolerance)[:, 0] * scale + (left, top)
        for outline in sorted(outlines, key=cv2.contourArea, reverse=True)
    ]
    return [np.round(ring, 1).tolist() for ring in rings]


def _simplified(outline: Outline, tolerance: float) -> Outline:
    """Return an outline with fewer points, or the same outline if its area would change much."""
    simplified = cv2.approxPolyDP(outline, tolerance, True)
    area = cv2.contourArea(outline)
    changed = abs(cv2.contourArea(simplified) - area) > _MAX_AREA_CHANGE * area
    return outline if changed else simplified
