"""Draw detections on their image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2

from serve_app.detections import Detections
from serve_app.types import Pixels

Rectangle = tuple[int, int, int, int]  # the left, top, right and bottom edge in pixels

_JPEG_QUALITY = 90
# Eight BGR colours that people with most kinds of colour vision can tell apart (Okabe and Ito, 2008).
_COLOURS = (
    (0, 159, 230),
    (233, 180, 86),
    (115, 158, 0),
    (66, 228, 240),
    (178, 114, 0),
    (0, 94, 213),
    (167, 121, 204),
    (255, 255, 255),
)


def draw(pixels: Pixels, detections: Detections) -> Pixels:
    """Draw boxes and their labels on ``pixels`` in place.

    The labels are drawn on top of all boxes. More confident detections are drawn on top of less confident ones. Raise
    ValueError when the detections have no labels.
    """
    if detections.labels is None:
        raise ValueError("only labelled detections can be drawn")
    short_side = min(pixels.shape[:2])
    thickness = max(1, round(short_side / 300))
    scale = max(0.35, short_side / 1200)
    boxes: list[Rectangle] = []
    texts: list[tuple[str, int]] = []  # each text, and the height of its part below the base line
    sizes: list[tuple[int, int]] = []
    colours: list[tuple[int, int, int]] = []
    for label, (corners, confidence, class_id) in zip(detections.labels, detections, strict=True):
        left, top, right, bottom = map(round, corners)
        text = f"{label} {confidence:.2f}"
        (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        boxes.append((left, top, right, bottom))
        texts.append((text, below))
        sizes.append((width, height + 2 * below))
        colours.append(_COLOURS[class_id % len(_COLOURS)])
    for (left, top, right, bottom), colour in reversed(list(zip(boxes, colours, strict=True))):
        cv2.rectangle(pixels, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)
    places = place_labels(boxes, sizes, pixels.shape[1], pixels.shape[0])
    for (left, top, right, bottom), (text, below), colour in reversed(list(zip(places, texts, colours, strict=True))):
        cv2.rectangle(pixels, (left, top), (right, bottom), colour, cv2.FILLED)
        base = (left, bottom - below)
        cv2.putText(pixels, text, base, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return pixels


def crop(pixels: Pixels, box: Sequence[float]) -> Pixels:
    """Return a copy of the part of ``pixels`` inside a box, which has at least one pixel."""
    height, width = pixels.shape[:2]
    left, top = (min(max(math.floor(edge), 0), side - 1) for edge, side in ((box[0], width), (box[1], height)))
    right, bottom = max(math.ceil(box[2]), left + 1), max(math.ceil(box[3]), top + 1)
    return pixels[top:bottom, left:right].copy()


def place_labels(
    boxes: Sequence[Rectangle], sizes: Sequence[tuple[int, int]], width_px: int, height_px: int
) -> list[Rectangle]:
    """Return a place for the label of each box in an image of this size.

    A label is above its box, or else inside at the top of the box, or else below the box. The first of these places is
    taken that is inside the image and covers no label of an earlier box. If there is none, the label covers others.
    """
    places: list[Rectangle] = []
    for (left, top, _, bottom), (width, height) in zip(boxes, sizes, strict=True):
        left = max(0, min(left, width_px - width))
        usual = max(0, top - height)
        tops = [one for one in (top - height, top, bottom) if 0 <= one <= height_px - height]
        candidates = [(left, one, left + width, one + height) for one in [*tops, usual]]
        free = (one for one in candidates if not any(_overlap(one, other) for other in places))
        places.append(next(free, candidates[-1]))
    return places


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def encode_jpeg(pixels: Pixels) -> bytes:
    """Encode the image as a JPEG."""
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1])
