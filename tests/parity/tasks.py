"""Predict with Ultralytics as the reference for the further tasks, and compare results with the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ultralytics import YOLO
from ultralytics.utils.metrics import batch_probiou, box_iou

from serve_app.detections import Detections, Mask
from serve_app.types import InputShape, Letterbox
from tests.parity.reference import CONFIDENCE_TOLERANCE, IOU_TOLERANCE, THRESHOLD

CLEAR = THRESHOLD + CONFIDENCE_TOLERANCE
MASK_IOU = 0.95
ROTATED_IOU = 0.95
KEYPOINT_PX = 2.0  # the most by which a keypoint may be shifted
KEYPOINT_CLEAR = 0.5  # keypoints with a lower confidence are not compared
PROBABILITY = 0.01  # the most by which a probability may differ
_TOP = 5


def predict(model: YOLO, pixels: np.ndarray, shape: InputShape) -> Any:
    """Return Ultralytics' result (``Results``) for a model input of this shape."""
    (result,) = model.predict(
        pixels,
        iou=0.7,
        max_det=300,
        conf=THRESHOLD - CONFIDENCE_TOLERANCE,
        verbose=False,
        device="cpu",
        rect=False,
        imgsz=tuple(shape),
    )
    return result


def differences(found: Detections, fitted: Letterbox, theirs: Any) -> list[str]:
    """Describe each result above ``CLEAR`` that only one implementation has.

    ``found`` is in pixels of the image, and ``fitted`` is the image's position in the model input.
    """
    if found.classes is not None:
        top = theirs.probs.top5
        probabilities = theirs.probs.data.numpy()
        is_alike = np.abs(found.classes.confidence - probabilities[found.classes.class_id]) <= PROBABILITY
        is_order = found.classes.class_id.tolist() == top or len(set(probabilities[top].round(4))) < _TOP
        return [] if is_alike.all() and is_order else [f"we: {found.classes}, Ultralytics: {theirs.probs.data}"]
    boxes = theirs.boxes if theirs.obb is None else theirs.obb
    confidence, class_id = boxes.conf.numpy().copy(), boxes.cls.numpy().astype(int)
    alike = np.abs(found.confidence[:, None] - confidence[None]) <= CONFIDENCE_TOLERANCE
    alike &= found.class_id[:, None] == class_id[None]
    if found.rotated is None:
        alike &= box_iou(torch.from_numpy(found.xyxy), boxes.xyxy).numpy() >= IOU_TOLERANCE
    else:
        alike &= batch_probiou(torch.from_numpy(found.rotated), boxes.xywhr).numpy() >= ROTATED_IOU
    for one, other in np.argwhere(alike):
        alike[one, other] = _is_alike(found, int(one), fitted, theirs, int(other))
    problems = []
    for index in range(len(found)):
        candidates = np.flatnonzero(alike[index])
        if len(candidates):
            alike[:, candidates[0]] = False
            confidence[candidates[0]] = 0
        elif found.confidence[index] > CLEAR:
            problems.append(f"only we: {index}, {found.xyxy[index]}, {found.confidence[index]}")
    return [*problems, *(f"only Ultralytics: {boxes[int(one)].data}" for one in np.flatnonzero(confidence > CLEAR))]


def _is_alike(found: Detections, index: int, fitted: Letterbox, theirs: Any, other: int) -> bool:
    """Return whether two objects with almost the same box have almost the same mask or keypoints, if they have any."""
    if found.masks is not None:
        mask = theirs.masks.data[other].numpy() > 0
        return _mask_iou(_in_model_input(found.masks[index], fitted), _without_padding(mask, fitted)) >= MASK_IOU
    if found.keypoints is None:
        return True
    ours, reference = found.keypoints[index], theirs.keypoints.data[other].numpy()
    is_clear = (ours[:, 2] > KEYPOINT_CLEAR) & (reference[:, 2] > KEYPOINT_CLEAR)
    shift = np.linalg.norm(ours[:, :2] - reference[:, :2], axis=1)
    return bool((shift[is_clear] <= KEYPOINT_PX).all())


def _in_model_input(mask: Mask, fitted: Letterbox) -> NDArray[np.bool_]:
    """Return the mask of a whole image, in pixels of the model input, without its padding."""
    whole = np.zeros((fitted.inner_height_px, fitted.inner_width_px), bool)
    left = round(mask.xyxy[0] * fitted.inner_width_px / fitted.width_px)
    top = round(mask.xyxy[1] * fitted.inner_height_px / fitted.height_px)
    rows, columns = mask.bits.shape
    whole[top : top + rows, left : left + columns] = mask.bits
    return whole


def _without_padding(mask: NDArray[np.bool_], fitted: Letterbox) -> NDArray[np.bool_]:
    x, y = fitted.pad_x_px, fitted.pad_y_px
    return mask[y : y + fitted.inner_height_px, x : x + fitted.inner_width_px]


def _mask_iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0
