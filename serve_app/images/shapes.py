"""The shapes of objects on an image: masks, keypoints and rotated boxes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Mask
from serve_app.images.labels import Colour, colour_of
from serve_app.keypoints import ARMS, COCO_COUNT, HEAD, LEGS, TRUNK, VISIBLE_ABOVE
from serve_app.types import Pixels

_OPACITY = 0.45  # of a mask
_LIMB_COLOURS = [
    (limb, colour_of(number))
    for limbs, number in ((LEGS, 0), (TRUNK, 6), (ARMS, 1), (HEAD, 3))  # four colours that differ well
    for limb in limbs
]
_DARK = (40, 40, 40)
_SHIFT = 3  # OpenCV takes coordinates with this many bits behind the point


def draw_mask(pixels: Pixels, mask: Mask, colour: Colour, thickness: int) -> None:
    """Draw a translucent mask and its outline."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = map(round, mask.xyxy)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    # Interpolation between the bitmap's pixels gives smooth edges.
    smooth = cv2.resize(mask.bits.astype(np.uint8) * 255, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    _, inside = cv2.threshold(smooth, 127, 255, cv2.THRESH_BINARY)
    inside = inside[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    if inside.size == 0:
        return
    left, top = max(left, 0), max(top, 0)
    region = pixels[top : top + inside.shape[0], left : left + inside.shape[1]]
    levels = np.arange(256)[None, :, None]
    tints = np.round(levels * (1 - _OPACITY) + np.array(colour) * _OPACITY).astype(np.uint8)  # (1, 256, 3)
    cv2.copyTo(cv2.LUT(region, tints), inside, region)
    # The outline is drawn beyond the region, where it touches the region's edge.
    outlines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
    cv2.drawContours(pixels, outlines, -1, colour, thickness, cv2.LINE_AA)


def draw_keypoints(pixels: Pixels, keypoints: NDArray[np.float32], colour: Colour, thickness: int) -> None:
    """Draw the visible keypoints of one object, and their limbs if they are those of COCO.

    ``keypoints`` has the shape (k, 3): x, y and confidence.
    """
    visible = keypoints[:, 2] > VISIBLE_ABOVE
    places = [_fixed(point) for point in keypoints[:, :2].tolist()]
    is_coco = len(keypoints) == COCO_COUNT
    for (one, other), limb_colour in _LIMB_COLOURS if is_coco else ():
        if visible[one] and visible[other]:
            ends = places[one], places[other]
            cv2.line(pixels, *ends, _DARK, thickness + 2, cv2.LINE_AA, _SHIFT)
            cv2.line(pixels, *ends, limb_colour, thickness, cv2.LINE_AA, _SHIFT)
    radius = max(1, round(1.3 * thickness))
    for place in (one for one, is_visible in zip(places, visible, strict=True) if is_visible):
        cv2.circle(pixels, place, (radius + 1) << _SHIFT, _DARK, cv2.FILLED, cv2.LINE_AA, _SHIFT)
        cv2.circle(
            pixels, place, radius << _SHIFT, (255, 255, 255) if is_coco else colour, cv2.FILLED, cv2.LINE_AA, _SHIFT
        )


def draw_polygon(pixels: Pixels, corners: NDArray[np.float32], colour: Colour, thickness: int) -> None:
    """Draw a closed polygon. ``corners`` has the shape (n, 2)."""
    points = np.array([_fixed(corner) for corner in corners.tolist()], np.int32)
    cv2.polylines(pixels, [points], True, colour, thickness, cv2.LINE_AA, _SHIFT)


def _fixed(point: list[float]) -> tuple[int, int]:
    return round(point[0] * 2**_SHIFT), round(point[1] * 2**_SHIFT)
