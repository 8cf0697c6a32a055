"""Determine the input shape of an exported model, and refuse models whose input is not that of a YOLO model."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.errors import ModelError
from serve_app.models.shapes import rectangles
from serve_app.types import InputShape

MAX_SIDE_PX = 8192  # 64 slots of this size take 13 GB; inputs of detection models are smaller


def input_shape(inputs: Sequence[Sequence[int | None]], is_float: bool, wanted: InputShape) -> InputShape:
    """Return the shape of the model's input. Sides that are dynamic in the file are taken from ``wanted``.

    ``inputs``: the sizes of each input in the order batch, channels, height, width, with None for a dynamic size.
    ``is_float``: whether every input takes floating-point numbers. Raise ModelError when the model does not have the
    input of a YOLO model.
    """
    if len(inputs) != 1 or len(inputs[0]) != 4:
        listed = " and ".join(_format_shape(one) for one in inputs) or "none"
        raise ModelError(
            f"the model must have exactly one image input, 1x3xHxW, but has {listed}: "
            "export it with Ultralytics as a detection model"
        )
    (sides,) = inputs
    _, channels, height, width = sides
    if channels not in (None, 3) and width == 3:
        raise ModelError(f"the model's input is {_format_shape(sides)}, which is channels last: export it as 1x3xHxW")
    if channels not in (None, 3):
        raise ModelError(
            f"the model's input is {_format_shape(sides)}, for images of {channels} channels, but only 3 are supported"
            ": export it as 1x3xHxW"
        )
    if not is_float:
        raise ModelError(
            "the model's input is neither fp32 nor fp16, so the scale of its values is unknown: export it with "
            "Ultralytics"
        )
    shape = InputShape(height or wanted.height_px, width or wanted.width_px)
    if max(shape) > MAX_SIDE_PX:
        raise ModelError(
            f"the model's input is {_format_shape(sides)}, but at most {MAX_SIDE_PX} px per side are supported: export "
            "it with a smaller input"
        )
    return shape


def allowed_rectangles(sides: Sequence[int | None], shape: InputShape, stride_px: int) -> tuple[InputShape, ...]:
    """Return the rectangles that fit the sizes of the input in the file, the smallest first.

    ``sides``: batch, channels, height and width, with None for a dynamic size.
    """
    _, _, height, width = sides
    return tuple(one for one in rectangles(shape, stride_px) if height in (None, one[0]) and width in (None, one[1]))


def _format_shape(sides: Sequence[int | None]) -> str:
    """Return sizes as text, such as 1x3x640x640, with a question mark for a dynamic size."""
    return "x".join("?" if side is None else str(side) for side in sides)


def fixed_batch_error(batch: int) -> ModelError:
    """Return the error for a file whose batch size is fixed and cannot be changed to 1.

    ``batch``: the file's batch size.
    """
    return ModelError(f"the model takes {batch} images at a time and cannot take a single one: export it with batch=1")
