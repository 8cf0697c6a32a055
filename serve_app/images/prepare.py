"""The image processing of a Preprocessor, as functions that can also run in another process."""

from __future__ import annotations

import time

import numpy as np

from serve_app.images.decode import decode
from serve_app.images.drawing import draw, encode_jpeg
from serve_app.images.letterbox import letterbox
from serve_app.types import Detections, InputShape, Letterbox, Pixels


def prepare(data: bytes, max_pixels: int, model_input: Pixels) -> tuple[Letterbox, float]:
    """Decode an image and fit it into ``model_input``.

    Return the image's position in the model input, and how many seconds the work took. Raise the errors of ``decode``.
    """
    started_at_s = time.monotonic()
    fitted = letterbox(decode(data, max_pixels), model_input)
    return fitted, time.monotonic() - started_at_s


def prepare_new(data: bytes, max_pixels: int, shape: InputShape) -> tuple[Letterbox, float, Pixels]:
    """Decode an image and fit it into a new model input. Return the results of ``prepare``, and the model input."""
    model_input = np.empty(shape.array, np.uint8)
    return *prepare(data, max_pixels, model_input), model_input


def annotate(data: bytes, max_pixels: int, detections: Detections) -> bytes:
    """Return the image with its boxes drawn, as a JPEG."""
    # We decode the image a second time. Keeping the pixels of all images until their boxes are known would take far
    # more memory.
    return encode_jpeg(draw(decode(data, max_pixels), detections))
