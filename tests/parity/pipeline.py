"""Sightline's pipeline from the bytes of an image to its detections, without Ray and HTTP."""

from __future__ import annotations

import numpy as np

from serve_app.images.decode import decode
from serve_app.images.letterbox import letterbox
from serve_app.images.map_back import to_picture
from serve_app.models.engines import Engine
from serve_app.models.tasks.detect import to_detections
from serve_app.types import DetectOptions
from tests.parity.reference import CONFIDENCE_TOLERANCE, THRESHOLD, Found

OPTIONS = DetectOptions(confidence=THRESHOLD - CONFIDENCE_TOLERANCE, iou=0.7, max_detections=300)


def detect(engine: Engine, data: bytes) -> list[Found]:
    """Return Sightline's detections above ``THRESHOLD - CONFIDENCE_TOLERANCE``."""
    info = engine.info
    slot = np.empty(info.input_shape.array, np.uint8)
    fitted = letterbox(decode(data, 50_000_000), slot)
    (raw,) = engine.infer([slot])
    detections = to_picture(to_detections(raw, OPTIONS, end_to_end=info.end_to_end), fitted)
    return [
        Found(info.labels[class_id], confidence, (x1, y1, x2, y2))
        for (x1, y1, x2, y2), confidence, class_id in detections
    ]
