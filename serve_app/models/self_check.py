"""Check a loaded model before it serves: run it once with each shape of input, and compare two precisions."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from serve_app.detections import Detections
from serve_app.errors import ModelError, ServeAppError
from serve_app.images.decode import decode
from serve_app.images.fitting import place
from serve_app.images.letterbox import choose_shape, fit
from serve_app.models.agreement import CONFIDENCE_TOLERANCE, THRESHOLD, agree
from serve_app.models.engines import Engine, RawOutput
from serve_app.models.failures import out_of_memory, reason
from serve_app.models.heads import check_output
from serve_app.models.tasks import task_of, to_detections
from serve_app.types import DetectOptions, EngineInfo, InputShape, Pixels

logger = logging.getLogger(__name__)

_MIN_COMPARED_DETECTIONS = 20  # with fewer, the comparison of two engines means little
_MAX_PIXELS = 50_000_000  # limit for calibration images and for model.known_picture
_COMPARED = DetectOptions(confidence=THRESHOLD - CONFIDENCE_TOLERANCE, iou=0.7, max_detections=300)


def check_shapes(engine: Engine, known_picture: Path | None, free: Callable[[], None] = lambda: None) -> None:
    """Run the model once with each shape of input, and remove the rectangles that fail from ``engine.info``.

    ``free`` is called after each rectangle, so that an engine can free the rectangle's memory before the next one.

    A rectangle fails, for example, if a file takes any size but computes the boxes for a single one. The largest shape
    then takes the images instead. Raise ModelError if the largest shape fails, or if the model finds nothing in
    ``known_picture``.
    """
    info = engine.info
    known = None if known_picture is None else _read(known_picture, "known_picture")
    largest = _first_output(engine, info.input_shape, known)
    rectangles = []
    for shape in info.rectangles:
        try:
            raw = _first_output(engine, shape, known if known is not None and _holds(shape, known, info) else None)
            _check_size(raw, shape, largest, info)
        except ModelError as exc:
            if exc.__cause__ is not None and out_of_memory(exc.__cause__):
                raise
            logger.warning("%s uses inputs of %s instead of %s: %s", info.name, info.input_shape, shape, exc)
        else:
            rectangles.append(shape)
        finally:
            free()
    engine.info = replace(info, rectangles=tuple(rectangles))


def _holds(shape: InputShape, pixels: Pixels, info: EngineInfo) -> bool:
    """Return whether the shape holds the image at the scale that it has in the largest shape."""
    fitted = fit(pixels.shape[1], pixels.shape[0], info.input_shape)
    return shape.holds(fitted.inner_width_px, fitted.inner_height_px)


def _first_output(engine: Engine, shape: InputShape, known: Pixels | None) -> RawOutput:
    """Return the raw output for the known picture, or for a pattern. Raise ModelError if the output is unusable."""
    info = engine.info
    frame = _pattern(shape) if known is None else _fitted(known, shape, info)
    try:
        raw = engine.infer([frame])[0]
    except Exception as exc:
        failed = ModelError(f"{info.name} fails on its first image: {type(exc).__name__}: {reason(exc)}")
        raise out_of_memory(exc) or failed from exc
    check_output(raw, info)
    if known is not None and not _count(to_detections(raw, info, _COMPARED)):
        raise ModelError(f"model.known_picture: {info.name} finds nothing in it; check model.weights and the image")
    return raw


def _check_size(raw: RawOutput, shape: InputShape, largest: RawOutput, info: EngineInfo) -> None:
    """Raise ModelError if a rectangle's output cannot belong to it.

    ``largest``: the output for the largest shape. An output with one column for each anchor has as many columns for
    each pixel of the input as this output, and prototypes have as many pixels. The number of rows may vary.
    """
    first, expected = raw[0], largest[0]
    row = 6 + task_of(info).extras(largest, info)
    if expected.shape[1] == row:  # one row for each detection
        fits = first.shape[1] == row
    else:
        fits = _is_in_proportion(first.shape, shape, expected.shape, info.input_shape)
    if not fits or not all(
        _is_in_proportion(one.shape, shape, other.shape, info.input_shape)
        for one, other in zip(raw[1:], largest[1:], strict=True)
    ):
        raise ModelError(f"the output has the shape {first.shape}, which does not fit an input of this size")


def _is_in_proportion(
    size: tuple[int, ...], shape: InputShape, largest: tuple[int, ...], largest_shape: InputShape
) -> bool:
    """Return whether an output has as many columns for each pixel of the input as the output for the largest shape."""
    # The products are integers, but a quotient of two sizes would be rounded.
    is_in_proportion = math.prod(size[1:]) * largest_shape.nbytes == math.prod(largest[1:]) * shape.nbytes
    return size[0] == largest[0] and is_in_proportion


def engines_agree(some: Engine, other: Engine, pictures: Sequence[Path]) -> bool:
    """Return whether both engines find the same objects in every image, and enough objects to be sure.

    Each image is letterboxed as for a request. A shape of input that no image gets is tried with the last image. Raise
    ModelError when an image cannot be read.
    """
    shapes = some.info.shapes
    if other.info.shapes != shapes:
        return False
    seen = 0
    untried = set(shapes)
    for picture in pictures:
        pixels = _read(picture, "calibration_dir")
        shape = choose_shape(pixels.shape[1], pixels.shape[0], shapes)
        untried.discard(shape)
        found = _detections(some, pixels, shape)
        if not agree(found, _detections(other, pixels, shape)):
            return False
        seen += _count(found, above=THRESHOLD + CONFIDENCE_TOLERANCE)
    return seen >= _MIN_COMPARED_DETECTIONS and all(
        agree(_detections(some, pixels, shape), _detections(other, pixels, shape)) for shape in untried
    )


def _detections(engine: Engine, pixels: Pixels, shape: InputShape) -> Detections:
    (raw,) = engine.infer([_fitted(pixels, shape, engine.info)])
    return to_detections(raw, engine.info, _COMPARED)


def _count(found: Detections, above: float = 0.0) -> int:
    """Return how many objects or classes were found with a higher confidence than ``above``."""
    confidence = found.confidence if found.classes is None else found.classes.confidence
    return int((confidence > above).sum())


def _pattern(shape: InputShape) -> Pixels:
    rows, columns = np.mgrid[: shape.height_px, : shape.width_px]
    return np.stack([rows, columns, rows * columns], axis=2).astype(np.uint8)


def _fitted(pixels: Pixels, shape: InputShape, info: EngineInfo) -> Pixels:
    frame = np.empty(shape.array, np.uint8)
    place(pixels, [shape], lambda _: frame, info.fitting)
    return frame


def _read(picture: Path, setting: str) -> Pixels:
    try:
        return decode(picture.read_bytes(), _MAX_PIXELS)
    except (ServeAppError, OSError) as exc:
        raise ModelError(f"model.{setting}: {picture.name} cannot be read: {exc}") from exc
