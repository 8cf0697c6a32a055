"""Sightline's pipeline from the bytes of an image to its detections, without Ray and HTTP."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serve_app.detections import Detections
from serve_app.images.decode import decode
from serve_app.images.fitting import place
from serve_app.images.map_back import to_picture
from serve_app.models.engines import Engine, RawOutput
from serve_app.models.tasks import to_detections
from serve_app.types import DetectOptions, InputShape, Letterbox, Pixels
from tests.parity.reference import CONFIDENCE_TOLERANCE, THRESHOLD, Found

OPTIONS = DetectOptions(confidence=THRESHOLD - CONFIDENCE_TOLERANCE, iou=0.7, max_detections=300)


def shape_for(engine: Engine, data: bytes) -> InputShape:
    """Return the shape of the model input that this image gets."""
    return _prepare(engine, data)[1].input_shape


def detect(engine: Engine, data: bytes) -> list[Found]:
    """Return Sightline's detections above ``THRESHOLD - CONFIDENCE_TOLERANCE``."""
    (found,) = detect_batch(engine, [data])
    return found


def detect_batch(engine: Engine, pictures: list[bytes]) -> list[list[Found]]:
    """Return the detections in each image. All images must get inputs of the same shape."""
    inputs = [_prepare(engine, data) for data in pictures]
    outputs = engine.infer([frame for frame, _ in inputs], alone=len(inputs) == 1)
    return [_found(engine, raw, fitted) for raw, (_, fitted) in zip(outputs, inputs, strict=True)]


def results(engine: Engine, picture: bytes) -> tuple[Detections, Letterbox]:
    """Return the results for an image in pixels of the image, and the image's position in the model input."""
    frame, fitted = _prepare(engine, picture)
    (raw,) = engine.infer([frame])
    options = replace(OPTIONS, confidence=0.0, max_detections=5) if engine.info.task == "classify" else OPTIONS
    return to_picture(to_detections(raw, engine.info, options), fitted), fitted


def _prepare(engine: Engine, data: bytes) -> tuple[Pixels, Letterbox]:
    frames: list[Pixels] = []

    def frame_of(shape: InputShape) -> Pixels:
        frames.append(np.empty(shape.array, np.uint8))
        return frames[-1]

    fitted = place(decode(data, 50_000_000), engine.info.shapes, frame_of, engine.info.fitting)
    return frames[-1], fitted


def _found(engine: Engine, raw: RawOutput, fitted: Letterbox) -> list[Found]:
    info = engine.info
    detections = to_picture(to_detections(raw, info, OPTIONS), fitted)
    return [
        Found(info.labels[class_id], confidence, (x1, y1, x2, y2))
        for (x1, y1, x2, y2), confidence, class_id in detections
    ]
