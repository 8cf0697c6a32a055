"""Detections as models of each task return them, in pixels of an image of 200×100 pixels."""

from __future__ import annotations

import numpy as np

from serve_app.detections import Detections, Mask, Ranking
from serve_app.types import Answer, InputShape, Timing

WIDTH_PX, HEIGHT_PX = 200, 100
BOXES = np.array([[20, 10, 80, 70], [100, 20, 140, 100]], np.float32)
LABELS = ("cat", "dog")


def boxed() -> Detections:
    """Return a cat and a dog with nothing but boxes."""
    return Detections(BOXES, np.array([0.9, 0.6], np.float32), np.array([0, 1], np.int32), LABELS)


def segmented() -> Detections:
    """Return a cat that is a square ring with a hole, and a dog that is the left half of its box."""
    ring = np.ones((6, 6), np.bool_)
    ring[2:4, 2:4] = False
    half = np.tile([True, False], (4, 1))
    return _with(masks=(Mask(ring, (20, 10, 80, 70)), Mask(half, (100, 20, 140, 100))))


def posed(count: int = 17) -> Detections:
    """Return a cat and a dog with keypoints on their left edges, from the top down. The dog's second is not visible."""
    keypoints = np.zeros((2, count, 3), np.float32)
    for points, (left, top, _, bottom) in zip(keypoints, BOXES, strict=True):
        points[:, 0], points[:, 1], points[:, 2] = left, np.linspace(top, bottom, count), 0.75
    keypoints[1, 1, 2] = 0.25
    return _with(keypoints=keypoints)


def rotated() -> Detections:
    """Return a cat and a dog with rotated boxes. The dog's box is a rectangle of 40×80 pixels that is not rotated."""
    boxes = np.array([[50, 40, 60, 30, np.pi / 6], [120, 60, 40, 80, 0]], np.float32)
    return _with(rotated=boxes)


def classified() -> Detections:
    """Return no objects, but the two most probable classes of the image."""
    ranking = Ranking(np.array([1, 0], np.int32), np.array([0.8, 0.15], np.float32), ("dog", "cat"))
    empty = Detections.empty()
    return Detections(empty.xyxy, empty.confidence, empty.class_id, (), classes=ranking)


def answer(detections: Detections, keypoint_names: tuple[str, ...] = ()) -> Answer:
    """Return the answer for an image with these detections."""
    shape = InputShape.square(64)
    return Answer(
        detections, WIDTH_PX, HEIGHT_PX, "fake", 1, Timing(), input_shape=shape, keypoint_names=keypoint_names
    )


def _with(**fields: object) -> Detections:
    return Detections(
        BOXES,
        np.array([0.9, 0.6], np.float32),
        np.array([0, 1], np.int32),
        LABELS,
        **fields,  # type: ignore[arg-type]
    )
