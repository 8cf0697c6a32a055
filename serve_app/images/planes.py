"""Convert an image whose colours are numbers from 0 to 1 to a model input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import InvalidParameter
from serve_app.types import Pixels

_STEPS = 255
# A client divides bytes by 255, and fp16 rounds the result by up to 1/4096, which is 0.06 steps of 1/255. A client that
# multiplies by a rounded 1/255 is off by up to 0.19 steps. fp32 numbers may have been fp16 numbers before. Of numbers
# that were never bytes, such as those of an image that was resized in floating point, every second one is refused.
_MAX_ROUNDING = 0.25


def write_model_input(planes: NDArray[np.floating], model_input: Pixels) -> None:
    """Write the bytes that an image had before a client divided them by 255.

    ``planes``: red, green and blue, ``(3, height, width)``. ``model_input``: ``(height, width, 3)``. Raise
    InvalidParameter if a number is not near a multiple of 1/255 from 0 to 1.
    """
    for plane, channel in zip(planes, (2, 1, 0), strict=True):
        with np.errstate(over="ignore", invalid="ignore"):  # infinite and huge numbers are refused below
            steps = plane.astype(np.float32) * _STEPS
            rounded = np.rint(steps)
            np.subtract(steps, rounded, out=steps)
        is_near = steps.min() > -_MAX_ROUNDING and steps.max() < _MAX_ROUNDING  # false if a number is NaN
        if not (is_near and rounded.min() >= 0 and rounded.max() <= _STEPS):
            raise InvalidParameter(
                "inputs: the tensor has numbers that are no multiples of 1/255 from 0 to 1; send the pixels of a "
                "letterboxed image divided by 255, or send the encoded image to the model whose name ends in -image"
            )
        model_input[:, :, channel] = rounded
