"""What a Preprocessor does with a picture's pixels, as functions that another process can run as well."""

from __future__ import annotations

import time

import numpy as np

from serve_app.images.decode import decode
from serve_app.images.drawing import draw, encode_jpeg
from serve_app.images.letterbox import letterbox
from serve_app.types import Detections, InputShape, Letterbox, Pixels


def prepare(data: bytes, max_pixels: int, model_input: Pixels) -> tuple[Letterbox, float]:
    """Decode a picture and fit it into ``model_input``; return how it was fitted, and the seconds that this took.

    Raises what ``decode`` raises.
    """
    started_at_s = time.monotonic()
    fitted = letterbox(decode(data, max_pixels), model_input)
    return fitted, time.monotonic() - started_at_s


def prepare_new(data: bytes, max_pixels: int, shape: InputShape) -> tuple[Letterbox, float, Pixels]:
    """Do the same into a model input of its own, which is returned last."""
    model_input = np.empty(shape.array, np.uint8)
    return *prepare(data, max_pixels, model_input), model_input


def annotate(data: bytes, max_pixels: int, detections: Detections) -> bytes:
    """Return the picture with its boxes drawn, as a JPEG."""
    # Decoded again: to hold every picture's pixels until its boxes are known would cost far more memory.
    return encode_jpeg(draw(decode(data, max_pixels), detections))
