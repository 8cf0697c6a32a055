"""The image processing of a Preprocessor and of a JobRunner, as functions that can also run in another process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from serve_app.config import JpegDecoding
from serve_app.detections import Detections
from serve_app.images.decode import decode, decode_reduced
from serve_app.images.drawing import draw, encode_jpeg
from serve_app.images.fitting import place
from serve_app.images.reduced import place_reduced
from serve_app.types import Fitting, InputShape, Letterbox, Pixels


def prepare(
    data: bytes,
    max_pixels: int,
    decoding: JpegDecoding,
    shapes: Sequence[InputShape],
    frame_of: Callable[[InputShape], Pixels],
    fitting: Fitting = "letterbox",
) -> tuple[Letterbox, float]:
    """Decode an image and fit it into a model input: see ``fitting.place``.

    ``decoding``: with "reduced", a JPEG that is far larger than the model input is decoded at a fraction of its size,
    unless the image is cropped. Return the image's position in the model input, and how many seconds the work took.
    Raise the errors of ``decode``.
    """
    started_at_s = time.monotonic()
    if decoding == "reduced" and fitting == "letterbox":
        # The last shape has the largest scale, and every other shape holds an image only at the same scale.
        fitted = place_reduced(decode_reduced(data, max_pixels, shapes[-1]), shapes, frame_of)
    else:
        fitted = place(decode(data, max_pixels), shapes, frame_of, fitting)
    return fitted, time.monotonic() - started_at_s


def prepare_new(
    data: bytes,
    max_pixels: int,
    decoding: JpegDecoding,
    shapes: Sequence[InputShape],
    fitting: Fitting = "letterbox",
) -> tuple[Letterbox, float, Pixels]:
    """Decode an image and fit it into a new model input. Return the results of ``prepare``, and the model input."""
    memory = np.empty(max(shape.nbytes for shape in shapes), np.uint8)
    fitted, took_s = prepare(
        data, max_pixels, decoding, shapes, lambda shape: memory[: shape.nbytes].reshape(shape.array), fitting
    )
    shape = fitted.input_shape
    return fitted, took_s, memory[: shape.nbytes].reshape(shape.array)


def annotate(data: bytes, max_pixels: int, detections: Detections) -> bytes:
    """Return the image with its boxes drawn, as a JPEG."""
    # We decode the image a second time. Keeping the pixels of all images until their boxes are known would take far
    # more memory.
    return encode_jpeg(draw(decode(data, max_pixels), detections))
