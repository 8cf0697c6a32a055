"""The detections that two models should return for one image."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from serve_app.client import Client, DetectResult, FrameResult
from serve_app.detections import Detections, Mask, Ranking
from serve_app.models.agreement import agree
from serve_app.models.weights import EMBEDDED
from serve_app.schemas.jobs import JobResult


class Reference:
    """The expected detections of one image, by the name of each model."""

    def __init__(self, picture: bytes) -> None:
        self.picture = picture
        self.answers: Counter[str] = Counter()  # the number of judged answers, by model
        self._found: dict[str, Detections] = {}
        self._labels: dict[str, set[str]] = {}

    def ask(self, url: str, model: str = "default") -> str:
        """Record what a model detects while the server has no other load, and return the model's name."""
        with Client(url) as client:
            result = client.detect(self.picture, model=model)
        self._found[result.model] = detections_of(result)
        self._labels[result.model] = set(result.labels)
        return result.model

    def agrees(self, result: DetectResult | FrameResult | JobResult) -> bool:
        """Return whether a result agrees with the detections that ``ask`` recorded for the same model."""
        self.answers[result.model] += 1
        expected = self._found.get(result.model)
        if expected is None or not agree(expected, detections_of(result)):
            return False
        return {one.label for one in result.detections} <= self._labels[result.model]


def save_second_model(folder: Path) -> Path:
    """Save a copy of the embedded model with another name and other labels, and return its path."""
    model = onnx.load(EMBEDDED / "codes.onnx")
    (labels,) = (entry for entry in model.metadata_props if entry.key == "names")
    labels.value = repr({class_id: f"second {name}" for class_id, name in ast.literal_eval(labels.value).items()})
    path = folder / "second.onnx"
    onnx.save(model, path)
    return path


def detections_of(result: DetectResult | FrameResult | JobResult) -> Detections:
    """Return a result of the API with arrays. Masks have the size of the image, and no holes if they are outlines."""
    arrays = result if not isinstance(result, JobResult) else DetectResult.model_construct(**dict(result))
    masks, corners = arrays.masks, arrays.obb
    whole = 0, 0, result.image.width, result.image.height
    classes = result.classes
    return Detections(
        arrays.xyxy,
        arrays.confidence,
        arrays.class_id,
        masks=None if masks is None else tuple(Mask(one, whole) for one in masks),
        keypoints=arrays.keypoints,
        rotated=None if corners is None else _rotated(corners, [one.angle or 0.0 for one in result.detections]),
        classes=None
        if classes is None
        else Ranking(
            np.array([one.class_id for one in classes], np.int32),
            np.array([one.confidence for one in classes], np.float32),
        ),
    )


def _rotated(corners: NDArray[np.float32], angles: Sequence[float]) -> NDArray[np.float32]:
    """Return rotated boxes, ``(n, 5)``, from their corners in the order of ``Detections.corners``."""
    height = np.linalg.norm(corners[:, 0] - corners[:, 1], axis=1)
    width = np.linalg.norm(corners[:, 1] - corners[:, 2], axis=1)
    return np.column_stack([corners.mean(axis=1), width, height, angles]).astype(np.float32)
