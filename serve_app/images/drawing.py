"""Draw detections on their image."""

from __future__ import annotations

import cv2

from serve_app.types import Detections, Pixels

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

    The most confident detections are drawn last, on top of all others. Raise ValueError when the detections have no
    labels.
    """
    if detections.labels is None:
        raise ValueError("only labelled detections can be drawn")
    short_side = min(pixels.shape[:2])
    thickness = max(1, round(short_side / 300))
    scale = max(0.35, short_side / 1200)
    for label, ((x1, y1, x2, y2), confidence, class_id) in reversed(
        list(zip(detections.labels, detections, strict=True))
    ):
        colour = _COLOURS[class_id % len(_COLOURS)]
        left, top = round(x1), round(y1)
        cv2.rectangle(pixels, (left, top), (round(x2), round(y2)), colour, thickness, cv2.LINE_AA)
        text = f"{label} {confidence:.2f}"
        (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        left = max(0, min(left, pixels.shape[1] - width))  # keep the label inside the image
        base = max(height + below, top - below)
        cv2.rectangle(pixels, (left, base - height - below), (left + width, base + below), colour, cv2.FILLED)
        cv2.putText(pixels, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return pixels


def encode_jpeg(pixels: Pixels) -> bytes:
    """Encode the image as a JPEG."""
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1])
