"""Fit an image into the input of a classification model: scale its shorter side, and crop its centre.

The result is exactly that of Ultralytics' ``classify_transforms`` (8.4), which uses Pillow's bilinear filter. Unlike
OpenCV's, this filter averages all pixels when it makes an image smaller.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from serve_app.types import InputShape, Letterbox, Pixels


def crop(pixels: Pixels, model_input: Pixels) -> Letterbox:
    """Write the scaled centre of ``pixels`` into ``model_input``.

    If the model input is not a square, the whole image is stretched to it instead, as Ultralytics does. The returned
    position has no padding.
    """
    height_px, width_px = pixels.shape[:2]
    shape = InputShape(*model_input.shape[:2])
    scaled_width, scaled_height = _scaled_size(width_px, height_px, shape)
    scaled = Image.fromarray(pixels)  # the order of the colours does not matter
    if scaled.size != (scaled_width, scaled_height):
        scaled = scaled.resize((scaled_width, scaled_height), Image.Resampling.BILINEAR)
    left = round((scaled_width - shape.width_px) / 2)
    top = round((scaled_height - shape.height_px) / 2)
    model_input[:] = np.asarray(scaled.crop((left, top, left + shape.width_px, top + shape.height_px)))
    return Letterbox(
        width_px=width_px,
        height_px=height_px,
        input_shape=shape,
        inner_width_px=shape.width_px,
        inner_height_px=shape.height_px,
        pad_x_px=0,
        pad_y_px=0,
    )


def _scaled_size(width_px: int, height_px: int, shape: InputShape) -> tuple[int, int]:
    """Return the width and the height to which the image is scaled."""
    if shape.width_px != shape.height_px:
        return shape.width_px, shape.height_px
    side_px = shape.width_px
    if width_px <= height_px:
        return side_px, int(side_px * height_px / width_px)
    return int(side_px * width_px / height_px), side_px
