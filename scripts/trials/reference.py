"""The detections that two models should return for one image."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path

import onnx

from serve_app.client import Client, DetectResult, FrameResult
from serve_app.detections import Detections
from serve_app.jobs.running import stored
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
    """Return a result of the API with arrays. Masks that came as outlines have no holes."""
    unnamed = {"job_id": "", "item": 0, "name": ""}
    return stored.detections_of(json.dumps(unnamed | result.model_dump(mode="json")))
