"""Answers for tests of the collection, and a check of what the collection's folder has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from serve_app.collect_args import CollectArgs
from serve_app.detections import Detections
from serve_app.types import Answer, DetectOptions, EngineInfo, InputShape, ModelInfo, Timing

WIDTH_PX, HEIGHT_PX = 64, 48
GREY = np.full((HEIGHT_PX, WIDTH_PX, 3), 128, np.uint8)
BOX = (8.0, 8.0, 24.0, 40.0)
LABELS = ("person", "dog", "cat")
MODEL = ModelInfo(
    EngineInfo("best", "1", "fake", LABELS, InputShape.square(64), end_to_end=False),
    version="1",
    defaults=DetectOptions(confidence=0.25, iou=0.7, max_detections=300),
)


def settings(folder: Path, **values: Any) -> CollectArgs:
    """Return settings that keep images in a folder. Only the given limits are low."""
    return CollectArgs(**{"folder": folder, "max_per_minute": 6000} | values)


def answer(*found: tuple[str, float], box: tuple[float, ...] = BOX, width_px: int = WIDTH_PX) -> Answer:
    """Return an answer with a detection for each label and confidence, all with the same box."""
    detections = Detections(
        np.array([box] * len(found), np.float32).reshape(-1, 4),
        np.array([confidence for _, confidence in found], np.float32),
        np.array([LABELS.index(label) for label, _ in found], np.int32),
        tuple(label for label, _ in found),
    )
    return Answer(detections, width_px, HEIGHT_PX, MODEL.name, 1, Timing(), MODEL.input_shape)


def kept_stems(folder: Path) -> list[str]:
    """Return the stems of all kept images, the oldest first. Fail if an image is damaged or has no labels."""
    stems = []
    for picture in folder.glob("*/images/*.jpg"):
        data = picture.read_bytes()
        assert data.endswith(b"\xff\xd9")  # the end of a JPEG
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
        for line in (picture.parents[1] / "labels" / f"{picture.stem}.txt").read_text().splitlines():
            class_id, *numbers = line.split()
            assert class_id in {"0", "1", "2"}
            assert [0 <= float(number) <= 1 for number in numbers] == [True] * 5
        stems.append(picture.stem)
    return sorted(stems)


def reasons_of(stems: list[str]) -> list[str]:
    """Return the reason in each stem."""
    return [stem.split("-")[1] for stem in stems]
