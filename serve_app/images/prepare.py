"""What a Preprocessor does with a picture's pixels, as functions that another process can run as well."""

from __future__ import annotations

import time

import numpy as np

from serve_app.images.decode import decode
from serve_app.images.drawing import draw, encode_jpeg
from serve_app.images.letterbox import letterbox
from serve_app.types import Detections, Letterbox, Pixels


def preprocess(data: bytes, max_pixels: int, model_input: Pixels) -> tuple[Letterbox, float]:
    """The picture, decoded and fitted into ``model_input``; how it was fitted, and the seconds that took.

    Raises as ``decode``.
    """
    started_s = time.monotonic()
    box = letterbox(decode(data, max_pixels), model_input)
    return box, time.monotonic() - started_s


def preprocessed(data: bytes, max_pixels: int, size_px: int) -> tuple[Letterbox, float, Pixels]:
    """The same, into a model input of its own: (size_px, size_px, 3)."""
    model_input = np.empty((size_px, size_px, 3), np.uint8)
    return *preprocess(data, max_pixels, model_input), model_input


def annotated(data: bytes, max_pixels: int, detections: Detections, labels: tuple[str, ...]) -> bytes:
    """The picture with its boxes drawn, as JPEG."""
    # Decoded again: to hold every picture's pixels until its boxes are known would cost far more memory.
    return encode_jpeg(draw(decode(data, max_pixels), detections, labels))
