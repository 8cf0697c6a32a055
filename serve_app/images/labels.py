"""Texts on an image: the labels of boxes, and a list of classes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2

from serve_app.types import Pixels

Rectangle = tuple[int, int, int, int]  # the left, top, right and bottom edge in pixels
Colour = tuple[int, int, int]  # BGR

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Eight BGR colours that people with most kinds of colour vision can tell apart (Okabe and Ito, 2008).
_COLOURS: tuple[Colour, ...] = (
    (0, 159, 230),
    (233, 180, 86),
    (115, 158, 0),
    (66, 228, 240),
    (178, 114, 0),
    (0, 94, 213),
    (167, 121, 204),
    (255, 255, 255),
)


def colour_of(class_id: int) -> Colour:
    """Return the colour of a class."""
    return _COLOURS[class_id % len(_COLOURS)]


def draw_labels(pixels: Pixels, boxes: Sequence[Rectangle], texts: Sequence[str], colours: Sequence[Colour]) -> None:
    """Draw the text of each box beside its box, on a background of its colour. Earlier texts are on top."""
    sizes = [_size(text, pixels) for text in texts]
    places = place_labels(boxes, [(width, height) for width, height, _ in sizes], pixels.shape[1], pixels.shape[0])
    for place, text, (_, _, below), colour in reversed(list(zip(places, texts, sizes, colours, strict=True))):
        _write(pixels, text, place, below, colour)


def draw_list(pixels: Pixels, texts: Sequence[str], colours: Sequence[Colour]) -> None:
    """Draw texts below each other in the upper left corner, each on a background of its colour."""
    top = 0
    sizes = [_size(text, pixels) for text in texts]
    widest = max((width for width, _, _ in sizes), default=0)
    for text, (_, height, below), colour in zip(texts, sizes, colours, strict=True):
        _write(pixels, text, (0, top, widest, top + height), below, colour)
        top += height


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


def _scale(pixels: Pixels) -> float:
    return max(0.35, float(min(pixels.shape[:2])) / 1200)


def _size(text: str, pixels: Pixels) -> tuple[int, int, int]:
    """Return the width and the height of a text, and the height of its part below the base line."""
    (width, height), below = cv2.getTextSize(text, _FONT, _scale(pixels), 1)
    return width, height + 2 * below, below


def _write(pixels: Pixels, text: str, place: Rectangle, below: int, colour: Colour) -> None:
    left, top, right, bottom = place
    cv2.rectangle(pixels, (left, top), (right, bottom), colour, cv2.FILLED)
    cv2.putText(pixels, text, (left, bottom - below), _FONT, _scale(pixels), (0, 0, 0), 1, cv2.LINE_AA)
