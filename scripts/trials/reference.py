"""What each of two models finds in one picture, and whether an answer is that."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import onnx

from serve_app.models.agreement import agree
from serve_app.models.weights import EMBEDDED
from serve_app.types import Detections, Json

_TIMEOUT_S = 60.0


class Reference:
    """What models find in a picture, by their names."""

    def __init__(self, picture: bytes) -> None:
        self.picture = picture
        self.answers: Counter[str] = Counter()  # that were judged, by the model that made them
        self._found: dict[str, Detections] = {}
        self._labels: dict[str, set[str]] = {}

    def ask(self, url: str, model: str = "default") -> str:
        """Has a model say what it finds, while nobody else asks; its name."""
        query = {"model": model}
        answer = httpx.post(f"{url}/detect", content=self.picture, params=query, timeout=_TIMEOUT_S, trust_env=False)
        found = answer.raise_for_status().json()
        self._found[found["model"]] = _detections(found)
        self._labels[found["model"]] = {one["label"] for one in found["detections"]}
        return str(found["model"])

    def agrees(self, answer: Json) -> bool:
        """Whether the model that an answer names finds this."""
        self.answers[answer["model"]] += 1
        expected = self._found.get(answer["model"])
        if expected is None or not agree(expected, _detections(answer)):
            return False
        return {one["label"] for one in answer["detections"]} <= self._labels[answer["model"]]


def save_second_model(folder: Path) -> Path:
    """The embedded model once more, under another name and with other labels."""
    model = onnx.load(EMBEDDED / "codes.onnx")
    (labels,) = (entry for entry in model.metadata_props if entry.key == "names")
    labels.value = repr({class_id: f"second {name}" for class_id, name in ast.literal_eval(labels.value).items()})
    path = folder / "second.onnx"
    onnx.save(model, path)
    return path


def _detections(answer: Json) -> Detections:
    found = answer["detections"]
    boxes = [[one["bbox"][side] for side in ("x1", "y1", "x2", "y2")] for one in found]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([one["confidence"] for one in found], np.float32),
        np.array([one["class_id"] for one in found], np.int32),
    )
