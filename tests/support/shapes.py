"""The models that find coloured shapes, and comparisons of answers with the ground truth of generated scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scripts.shapes.scenes import KEYPOINTS, LABELS, Scene, Shape, portrait, scene
from serve_app.detections import Detections, Mask, Ranking
from tests.support.paths import ROOT

TASKS = tuple(sorted(LABELS))
SIZE_PX = 320  # the side of the model input for ``scenes``
PORTRAIT_SIZE_PX = 128  # the side of the model input for ``portraits``
CONFIDENCE = 0.5  # detections below it are ignored
BOX_IOU = 0.6
MASK_IOU = 0.8
ROTATED_IOU = 0.6
KEYPOINT_PX = 8.0
_SIZES_PX = ((320, 240), (240, 320), (320, 320))  # width, height
_PORTRAIT_SIZES_PX = ((200, 150), (150, 200), (160, 160))


def weights(task: str) -> Path:
    """Return the checkpoint of the model for a task."""
    return ROOT / "tests/weights" / f"shapes-{task}.pt"


def scenes(count: int, seed: int = 100) -> list[Scene]:
    """Return scenes of several sizes, for the models that find objects. The models were not trained on them."""
    rng = np.random.default_rng(seed)
    return [scene(rng, *_SIZES_PX[index % len(_SIZES_PX)]) for index in range(count)]


def portraits(count: int, seed: int = 200) -> list[Scene]:
    """Return scenes of several sizes with one large shape, for the model that classifies."""
    rng = np.random.default_rng(seed)
    return [portrait(rng, *_PORTRAIT_SIZES_PX[index % len(_PORTRAIT_SIZES_PX)]) for index in range(count)]


def true_shapes(image: Scene, task: str) -> list[Shape]:
    """Return the shapes that a task's model should find. Only some shapes have keypoints."""
    return [shape for shape in image.shapes if shape.kind in LABELS[task]]


def true_box(shape: Shape, task: str) -> tuple[float, float, float, float]:
    """Return the upright box of a shape: left, top, right, bottom. For task obb, it is around the rotated rectangle."""
    points = shape.corners if task == "obb" else shape.outline
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


def truth(image: Scene, task: str) -> Detections:
    """Return the right answer for a scene, with a confidence of 1."""
    if task == "classify":
        ranking = Ranking(np.array([LABELS[task].index(image.label)], np.int32), np.ones(1, np.float32))
        return replace(Detections.empty(), classes=ranking)
    height, width = image.pixels.shape[:2]
    found = true_shapes(image, task)
    answer = Detections(
        np.array([true_box(shape, task) for shape in found], np.float32).reshape(-1, 4),
        np.ones(len(found), np.float32),
        np.array([LABELS[task].index(shape.kind) for shape in found], np.int32),
    )
    if task == "segment":
        return replace(answer, masks=tuple(Mask(one.mask(width, height), (0, 0, width, height)) for one in found))
    if task == "obb":
        return replace(answer, rotated=np.array([shape.rotated for shape in found], np.float32).reshape(-1, 5))
    if task == "pose":
        points = np.array([shape.keypoints for shape in found], np.float32).reshape(-1, len(KEYPOINTS), 2)
        return replace(answer, keypoints=np.concatenate([points, np.ones_like(points[..., :1])], axis=2))
    return answer


def disagreements(image: Scene, answer: Detections, task: str) -> list[str]:
    """Describe everything in an answer that is not as in the scene. An empty list means that the answer is right.

    The answer has the coordinates of the scene's image. Every shape must be found once and with its class, and its
    mask, its keypoints or its rotated rectangle must lie within the tolerances of this module.
    """
    if task == "classify":
        assert answer.classes is not None
        label = LABELS[task][answer.classes.class_id[0]]
        return [] if label == image.label else [f"the image shows a {image.label}, not a {label}"]
    found = matches(image, answer, task)
    problems = []
    for shape, index in found:
        error = "was not found" if index is None else _difference(image, shape, answer, index, task)
        problems += [f"the {shape.colour} {shape.kind} at {_text(shape.centre)} {error}"] if error else []
    for index in set(_confident(answer)) - {index for _, index in found}:
        label = LABELS[task][answer.class_id[index]]
        problems.append(f"there is no {label} at {_text(_centre(answer, index))}")
    return problems


def matches(image: Scene, answer: Detections, task: str) -> list[tuple[Shape, int | None]]:
    """Return each shape that should be found with the index of its detection, or None. A detection has one shape."""
    left = _confident(answer)
    pairs: list[tuple[Shape, int | None]] = []
    for shape in true_shapes(image, task):
        same = [index for index in left if LABELS[task][answer.class_id[index]] == shape.kind]
        ious = {index: box_iou(true_box(shape, task), answer.xyxy[index].tolist()) for index in same}
        best = max(same, key=ious.__getitem__, default=None)
        if best is not None and ious[best] >= BOX_IOU:
            left.remove(best)
            pairs.append((shape, best))
        else:
            pairs.append((shape, None))
    return pairs


def quality(image: Scene, shape: Shape, answer: Detections, index: int, task: str) -> float:
    """Return how well a detection fits its shape.

    This is the IoU of the masks, of the rotated rectangles or of the boxes. For keypoints, it is the greatest distance
    of one from its true place, in pixels of the image.
    """
    if task == "segment":
        assert answer.masks is not None
        return mask_iou(image, shape, answer.masks[index])
    if task == "obb":
        assert answer.rotated is not None
        return rotated_iou(shape.rotated, answer.rotated[index].tolist())
    if task == "pose":
        assert answer.keypoints is not None
        return float(np.linalg.norm(answer.keypoints[index, :, :2] - shape.keypoints, axis=1).max())
    return box_iou(true_box(shape, task), answer.xyxy[index].tolist())


def mask_iou(image: Scene, shape: Shape, mask: Mask) -> float:
    """Return the intersection over union of a shape's pixels and a mask."""
    height, width = image.pixels.shape[:2]
    true, found = shape.mask(width, height), painted(mask, width, height)
    return float((true & found).sum() / (true | found).sum())


def painted(mask: Mask, width_px: int, height_px: int) -> NDArray[np.bool_]:
    """Return the pixels of an image whose centres lie inside a mask, with shape (height, width)."""
    left, top, right, bottom = mask.xyxy
    rows, columns = mask.bits.shape
    x = np.floor((np.arange(width_px) + 0.5 - left) * columns / (right - left)).astype(int)
    y = np.floor((np.arange(height_px) + 0.5 - top) * rows / (bottom - top)).astype(int)
    pixels = mask.bits[np.clip(y, 0, rows - 1)[:, None], np.clip(x, 0, columns - 1)]
    inside = ((y >= 0) & (y < rows))[:, None] & (x >= 0) & (x < columns)
    return np.asarray(pixels & inside)


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the intersection over union of two boxes, each (left, top, right, bottom)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def rotated_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the intersection over union of two rotated rectangles, each (x, y, width, height, angle in radians)."""
    first, second = (((x, y), (width, height), math.degrees(angle)) for x, y, width, height, angle in (a, b))
    corners = cv2.rotatedRectangleIntersection(first, second)[1]
    shared = 0.0 if corners is None else cv2.contourArea(cv2.convexHull(corners))
    return float(shared / (a[2] * a[3] + b[2] * b[3] - shared))


def _difference(image: Scene, shape: Shape, answer: Detections, index: int, task: str) -> str | None:
    """Say how a detection differs from its shape, or return None."""
    value = quality(image, shape, answer, index, task)
    if task == "segment" and value < MASK_IOU:
        return f"has a mask with an IoU of {value:.2f}"
    if task == "obb" and value < ROTATED_IOU:
        return f"has a rotated rectangle with an IoU of {value:.2f}"
    if task == "pose" and value > KEYPOINT_PX:
        return f"has a keypoint that is {value:.1f} px from its place"
    return None


def _confident(answer: Detections) -> list[int]:
    return [index for index, confidence in enumerate(answer.confidence.tolist()) if confidence >= CONFIDENCE]


def _centre(answer: Detections, index: int) -> tuple[float, float]:
    x1, y1, x2, y2 = answer.xyxy[index].tolist()
    return (x1 + x2) / 2, (y1 + y2) / 2


def _text(point: tuple[float, float]) -> str:
    return f"({point[0]:.0f}, {point[1]:.0f})"
