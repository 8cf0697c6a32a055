"""Remove the duplicates of objects: of several boxes of one object, keep the most confident one (NMS).

The arithmetic is that of Ultralytics' ``non_max_suppression`` (8.4).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.models.tasks.candidates import Candidates
from serve_app.types import DetectOptions, EngineInfo

_CLASS_OFFSET_PX = 7680.0  # shifts boxes by class, so that NMS never compares two classes (as in Ultralytics)
_EPSILON = 1e-7  # as in Ultralytics' ``batch_probiou``
_BLOCK = 64  # the number of rotated boxes that are compared with all others at once; it limits the memory


def suppress(found: Candidates, info: EngineInfo, options: DetectOptions) -> Candidates:
    """Return the candidates without duplicates, at most ``options.max_detections``.

    The raw output of an end-to-end model has each object once, so nothing is removed. With ``options.agnostic_nms``,
    boxes of different classes also suppress each other.
    """
    if not info.end_to_end and len(found.confidence):
        corner, size = found.boxes[:, :2] + _class_offset(found, options), found.boxes[:, 2:] - found.boxes[:, :2]
        xywh = np.concatenate([corner, size], axis=1, dtype=np.float64)
        kept = cv2.dnn.NMSBoxes(xywh, found.confidence, 0.0, options.iou)  # type: ignore[arg-type]  # its stubs know only lists
        found = found.select(np.asarray(kept, np.intp).reshape(-1))
    return found.select(slice(options.max_detections))


def suppress_rotated(found: Candidates, info: EngineInfo, options: DetectOptions) -> Candidates:
    """Return rotated candidates without duplicates, at most ``options.max_detections``: see ``suppress``.

    ``found.extras`` has the angle in its first column. A candidate is a duplicate if its IoU with another candidate of
    higher confidence exceeds ``options.iou``, even if that candidate is itself a duplicate. This is Ultralytics'
    ``fast_nms`` with ``batch_probiou``.
    """
    if not info.end_to_end:
        centre = found.boxes[:, :2] + _class_offset(found, options)
        xywhr = np.concatenate([centre, found.boxes[:, 2:], found.extras[:, :1]], axis=1)
        found = found.select(np.flatnonzero(~_has_duplicate_before(xywhr, options.iou)))
    return found.select(slice(options.max_detections))


def _class_offset(found: Candidates, options: DetectOptions) -> NDArray[np.float32]:
    """Return the shift of each box in pixels, ``(n, 1)``."""
    offset = 0.0 if options.agnostic_nms else _CLASS_OFFSET_PX
    return (found.class_id[:, None] * offset).astype(np.float32)


def _has_duplicate_before(xywhr: NDArray[np.float32], iou: float) -> NDArray[np.bool_]:
    """Return for each rotated box whether its IoU with any earlier box exceeds ``iou``."""
    is_duplicate = np.zeros(len(xywhr), bool)
    # The distance of two centres is a lower bound for the Bhattacharyya distance, and so limits the IoU. It is computed
    # for all pairs, and the IoU only for the few pairs that are near enough.
    longest = xywhr[:, 2:4].max(axis=1) ** 2
    farthest = -np.log1p(_EPSILON - min((1 - iou) ** 2, 1.0)) / 3 + _EPSILON
    for start in range(0, len(xywhr), _BLOCK):
        block = slice(start, start + _BLOCK)
        later = start + 1 + np.flatnonzero(~is_duplicate[start + 1 :])  # a known duplicate is not compared again
        shift = xywhr[block, None, :2] - xywhr[None, later, :2]
        is_near = (shift**2).sum(axis=2) <= farthest * (longest[block, None] + longest[None, later])
        is_near &= np.arange(start, start + len(shift))[:, None] < later
        one, other = np.nonzero(is_near)
        exceeds = probiou(xywhr[block][one], xywhr[later[other]]) > iou
        is_duplicate[later[other[exceeds]]] = True
    return is_duplicate


def probiou(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the IoU of pairs of rotated boxes, ``(n,)``, as Ultralytics' ``batch_probiou`` computes it.

    ``some`` and ``others`` are ``(n, 5)``: centre x, centre y, width, height and angle in radians. Each box is taken as
    a Gaussian distribution, and the IoU is 1 minus the Hellinger distance of the two: https://arxiv.org/abs/2106.06072
    """
    shift_x, shift_y = (some[:, :2] - others[:, :2]).T
    (a1, b1, c1), (a2, b2, c2) = _covariance(some), _covariance(others)
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    determinant = a * b - c**2
    distant = (a * shift_y**2 + b * shift_x**2) / (determinant + _EPSILON) / 4
    skewed = -c * shift_x * shift_y / (determinant + _EPSILON) / 2
    own = np.sqrt(np.maximum(a1 * b1 - c1**2, 0) * np.maximum(a2 * b2 - c2**2, 0))
    unlike = np.log(determinant / (4 * own + _EPSILON) + _EPSILON) / 2
    bhattacharyya = np.clip(distant + skewed + unlike, _EPSILON, 100.0)
    iou: NDArray[np.float32] = 1 - np.sqrt(1 - np.exp(-bhattacharyya) + _EPSILON)
    return iou


def _covariance(xywhr: NDArray[np.float32]) -> tuple[Any, Any, Any]:
    """Return the variances in x and in y, and the covariance, of each box as a Gaussian distribution."""
    width, height = xywhr[:, 2] ** 2 / 12, xywhr[:, 3] ** 2 / 12
    cos, sin = np.cos(xywhr[:, 4]), np.sin(xywhr[:, 4])
    return width * cos**2 + height * sin**2, width * sin**2 + height * cos**2, (width - height) * cos * sin
