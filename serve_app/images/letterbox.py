"""Fit a picture into the square model input, and map boxes back.

The arithmetic is that of Ultralytics' ``LetterBox`` and ``scale_boxes`` (8.4), so that boxes agree to the pixel.
"""

from __future__ import annotations

import cv2
import numpy as np

from serve_app.types import Detections, Letterbox, Pixels

_PADDING = 114  # the grey that YOLO models are trained with


def fit(width_px: int, height_px: int, size_px: int) -> Letterbox:
    """Where a picture of this size lies inside a square of ``size_px``. A thin picture keeps one pixel."""
    scale = min(size_px / width_px, size_px / height_px)
    inner_width = max(round(width_px * scale), 1)
    inner_height = max(round(height_px * scale), 1)
    return Letterbox(
        width_px=width_px,
        height_px=height_px,
        size_px=size_px,
        inner_width_px=inner_width,
        inner_height_px=inner_height,
        pad_x_px=round((size_px - inner_width) / 2 - 0.1),
        pad_y_px=round((size_px - inner_height) / 2 - 0.1),
    )


def letterbox(pixels: Pixels, model_input: Pixels) -> Letterbox:
    """Scale ``pixels`` into the square ``model_input`` in place; what was in it before is overwritten."""
    box = fit(pixels.shape[1], pixels.shape[0], model_input.shape[0])
    left, top = box.pad_x_px, box.pad_y_px
    right, bottom = left + box.inner_width_px, top + box.inner_height_px
    inner = model_input[top:bottom, left:right]
    if pixels.shape == inner.shape:
        inner[:] = pixels
    else:
        cv2.resize(pixels, (box.inner_width_px, box.inner_height_px), dst=inner, interpolation=cv2.INTER_LINEAR)
    model_input[:top] = _PADDING
    model_input[bottom:] = _PADDING
    model_input[top:bottom, :left] = _PADDING
    model_input[top:bottom, right:] = _PADDING
    return box


def to_picture(detections: Detections, box: Letterbox) -> Detections:
    """The detections in the picture's own pixels, clipped to its edges."""
    pad = np.array([box.pad_x_px, box.pad_y_px] * 2, np.float32)
    scale = np.array([box.inner_width_px / box.width_px, box.inner_height_px / box.height_px] * 2, np.float32)
    limit = np.array([box.width_px, box.height_px] * 2, np.float32)
    xyxy = np.clip((detections.xyxy - pad) / scale, 0, limit)
    return Detections(xyxy, detections.confidence, detections.class_id)
