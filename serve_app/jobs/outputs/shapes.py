"""The shapes of objects in stored results, as the formats COCO and YOLO need them."""

from __future__ import annotations

from typing import Any

from serve_app.detections import Mask, Rings, Rle
from serve_app.images.outlines import rings_of
from serve_app.keypoints import VISIBLE_ABOVE
from serve_app.outlines import mask_of_rle


def rings_in(found: dict[str, Any]) -> Rings | None:
    """Return the outlines of a stored ``Detection``, or None if it is only a box. A rotated box is an outline, too."""
    if "segments" in found:
        rings: Rings = found["segments"]
        return rings
    if "mask" in found:
        return rings_of(stored_mask(found["mask"]))
    if "obb" in found:
        obb = found["obb"]
        return [[[obb[f"x{number}"], obb[f"y{number}"]] for number in range(1, 5)]]
    return None


def stored_mask(rle: dict[str, Any]) -> Mask:
    """Return the mask in a stored ``RleMask``."""
    height_px, width_px = rle["size"]
    return mask_of_rle(Rle(height_px, width_px, rle["counts"]))


def area_of(rings: Rings) -> float:
    """Return the area that outlines enclose, in square pixels (the shoelace formula)."""
    return sum(
        abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True))) / 2
        for ring in rings
    )


def joined(rings: Rings) -> list[list[float]]:
    """Return outlines as one polygon, because a YOLO label has only one.

    From the second on, each outline is connected with the first point by a line that leads there and back, so the
    polygon encloses the same area.
    """
    if not rings:
        return []
    start = rings[0][0]
    polygon = list(rings[0])
    for ring in rings[1:]:
        polygon += [start, *ring, ring[0]]
    return [*polygon, start] if len(rings) > 1 else polygon


def visible(points: list[list[float]]) -> list[tuple[float, float, int]]:
    """Return keypoints as x, y and COCO's visibility: 2 for a visible keypoint. All others are 0, 0 and 0."""
    return [(x, y, 2) if confidence > VISIBLE_ABOVE else (0, 0, 0) for x, y, confidence in points]
