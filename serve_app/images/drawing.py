"""Draw detections on their image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2

from serve_app.detections import Detections
from serve_app.images.labels import Rectangle, colour_of, draw_labels, draw_list
from serve_app.images.shapes import draw_keypoints, draw_mask, draw_polygon
from serve_app.types import Pixels

_JPEG_QUALITY = 90


def draw(pixels: Pixels, detections: Detections) -> Pixels:
    """Draw objects and their labels on ``pixels`` in place, or the classes of the whole image.

    Masks, keypoints and rotated boxes are drawn if the detections have them. The labels are drawn on top of all
    objects. More confident detections are drawn on top of less confident ones. Raise ValueError when the detections
    have no labels.
    """
    if detections.labels is None:
        raise ValueError("only labelled detections can be drawn")
    thickness = max(1, round(min(pixels.shape[:2]) / 300))
    boxes: list[Rectangle] = []
    for left, top, right, bottom in detections.xyxy.tolist():
        boxes.append((round(left), round(top), round(right), round(bottom)))
    colours = [colour_of(class_id) for class_id in detections.class_id.tolist()]
    corners, keypoints = detections.corners, detections.keypoints
    for index in reversed(range(len(boxes))):
        colour = colours[index]
        if detections.masks is not None:
            draw_mask(pixels, detections.masks[index], colour, thickness)
        if corners is not None:
            draw_polygon(pixels, corners[index], colour, thickness)
            highest = corners[index][corners[index][:, 1].argmin()]
            boxes[index] = (round(float(highest[0])), *boxes[index][1:])  # its label is above this corner
        else:
            cv2.rectangle(pixels, boxes[index][:2], boxes[index][2:], colour, thickness, cv2.LINE_AA)
    if keypoints is not None:
        for points, box, colour in reversed(list(zip(keypoints, boxes, colours, strict=True))):
            side = max(box[2] - box[0], box[3] - box[1])
            # Thinner lines, so that the limbs of a small person can be told apart.
            draw_keypoints(pixels, points, colour, max(1, min(thickness, round(side / 60))))
    texts = [
        f"{label} {confidence:.2f}" for label, (_, confidence, _) in zip(detections.labels, detections, strict=True)
    ]
    draw_labels(pixels, boxes, texts, colours)
    if ranking := detections.classes:
        named = zip(ranking.labels or (), ranking.confidence.tolist(), strict=True)
        texts = [f"{label} {confidence:.2f}" for label, confidence in named]
        draw_list(pixels, texts, [colour_of(class_id) for class_id in ranking.class_id.tolist()])
    return pixels


def crop(pixels: Pixels, box: Sequence[float]) -> Pixels:
    """Return a copy of the part of ``pixels`` inside a box, which has at least one pixel."""
    height, width = pixels.shape[:2]
    left, top = (min(max(math.floor(edge), 0), side - 1) for edge, side in ((box[0], width), (box[1], height)))
    right, bottom = max(math.ceil(box[2]), left + 1), max(math.ceil(box[3]), top + 1)
    return pixels[top:bottom, left:right].copy()


def encode_jpeg(pixels: Pixels) -> bytes:
    """Encode the image as a JPEG."""
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1])
