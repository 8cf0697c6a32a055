"""Fit an image into the model input: scale it, centre it and pad it.

The arithmetic is that of Ultralytics' ``LetterBox`` (8.4), so our boxes equal those of Ultralytics to the pixel.
The module ``map_back`` does the inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2

from serve_app.types import InputShape, Letterbox, Pixels

_PADDING = 114  # the grey of the padding in the training of YOLO models


def fit(width_px: int, height_px: int, shape: InputShape) -> Letterbox:
    """Return where an image of this size lies in a model input. Each scaled side has at least one pixel."""
    scale = min(shape.width_px / width_px, shape.height_px / height_px)
    inner_width = max(round(width_px * scale), 1)
    inner_height = max(round(height_px * scale), 1)
    return Letterbox(
        width_px=width_px,
        height_px=height_px,
        input_shape=shape,
        inner_width_px=inner_width,
        inner_height_px=inner_height,
        pad_x_px=round((shape.width_px - inner_width) / 2 - 0.1),
        pad_y_px=round((shape.height_px - inner_height) / 2 - 0.1),
    )


def choose_shape(width_px: int, height_px: int, shapes: Sequence[InputShape]) -> InputShape:
    """Return the smallest shape that holds an image of this size at the scale that it has in the largest shape.

    ``shapes`` are ordered, the smallest first. An image that no smaller shape holds gets the last shape, which holds
    every image.
    """
    largest = fit(width_px, height_px, shapes[-1])
    return next(shape for shape in shapes if shape.holds(largest.inner_width_px, largest.inner_height_px))


def place(pixels: Pixels, shapes: Sequence[InputShape], frame_of: Callable[[InputShape], Pixels]) -> Letterbox:
    """Fit an image into the smallest suitable model input, and return its position there.

    ``shapes`` are ordered, the smallest first. ``frame_of`` returns the array for a model input of the chosen shape.
    """
    return letterbox(pixels, frame_of(choose_shape(pixels.shape[1], pixels.shape[0], shapes)))


def letterbox(pixels: Pixels, model_input: Pixels) -> Letterbox:
    """Write the scaled ``pixels`` and the padding into ``model_input``, and return the position of the pixels."""
    height_px, width_px = model_input.shape[:2]
    fitted = fit(pixels.shape[1], pixels.shape[0], InputShape(height_px, width_px))
    inner = pad(model_input, fitted)
    if pixels.shape == inner.shape:
        inner[:] = pixels
    else:
        size = fitted.inner_width_px, fitted.inner_height_px
        cv2.resize(pixels, size, dst=inner, interpolation=cv2.INTER_LINEAR)
    return fitted


def pad(model_input: Pixels, fitted: Letterbox) -> Pixels:
    """Write the padding into ``model_input``, and return the part of it that is for the image."""
    left, top = fitted.pad_x_px, fitted.pad_y_px
    right, bottom = left + fitted.inner_width_px, top + fitted.inner_height_px
    model_input[:top] = _PADDING
    model_input[bottom:] = _PADDING
    model_input[top:bottom, :left] = _PADDING
    model_input[top:bottom, right:] = _PADDING
    return model_input[top:bottom, left:right]
