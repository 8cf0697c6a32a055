"""Which input an exported model has, and whether pictures can be fed to it."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.errors import ModelError
from serve_app.types import InputShape

MAX_SIDE_PX = 8192  # larger ones are no picture's; 64 slots of that side take 13 GB


def input_shape(inputs: Sequence[Sequence[int | None]], is_float: bool, wanted: InputShape) -> InputShape:
    """Return the shape of the model's input: the file's sides, and those of ``wanted`` where the file leaves them open.

    ``inputs``: each input's sizes, in the order batch, channels, height, width; None where a size is open.
    ``is_float``: every input takes floating-point numbers. Raises ModelError for a model that takes something else than
    YOLO models do.
    """
    if len(inputs) != 1 or len(inputs[0]) != 4:
        listed = " and ".join(_written(one) for one in inputs) or "none"
        raise ModelError(
            f"the model must have exactly one image input, 1x3xHxW, and has {listed}: "
            "export it with Ultralytics as a detection model"
        )
    (sides,) = inputs
    _, channels, height, width = sides
    if channels not in (None, 3) and width == 3:
        raise ModelError(f"the model's input is {_written(sides)}, channels last: export it as 1x3xHxW")
    if channels not in (None, 3):
        raise ModelError(
            f"the model's input is {_written(sides)}, pictures of {channels} channels, and only those of 3 are served: "
            "export it as 1x3xHxW"
        )
    if not is_float:
        raise ModelError(
            "the model's input is neither fp32 nor fp16, and what it makes of a picture's values cannot be known: "
            "export it as Ultralytics does"
        )
    shape = InputShape(height or wanted.height_px, width or wanted.width_px)
    if max(shape) > MAX_SIDE_PX:
        raise ModelError(f"the model's input is {_written(sides)}: at most {MAX_SIDE_PX} px a side are served")
    return shape


def _written(sides: Sequence[int | None]) -> str:
    """Return sizes as a person writes them: 1x3x640x640, with a question mark where one is open."""
    return "x".join("?" if side is None else str(side) for side in sides)


def fixed_batch(batch: int) -> ModelError:
    """Return the error for a file that takes ``batch`` pictures at a time and cannot be made to take one."""
    return ModelError(f"the model takes {batch} pictures at a time, and cannot take one alone: export it with batch=1")
