"""What is measured of an image, besides its detections: brightness, contrast and sharpness.

Everything is computed from the model input, in which every image has about the same scale, so that the same view has
the same sharpness at any resolution of its camera. The padding of the letterbox is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from serve_app.types import Letterbox, Pixels

_GREEN = 1  # the channel of BGR that has 59 % of the luma; converting the image to grey would cost more than all below
_ROW_STEP, _COLUMN_STEP = 8, 2  # every 16th pixel is measured
_MIN_SIDE_PX = 3  # a pixel of a smaller image does not have four neighbours


class Look(NamedTuple):
    """How an image looks."""

    brightness: float  # the mean of the green channel, 0 to 255
    contrast: float  # its standard deviation
    sharpness: float  # the variance of its Laplacian


def look_of(model_input: Pixels, fitted: Letterbox) -> Look:
    """Return how the image in a model input looks. ``model_input`` has the shape of ``fitted.input_shape.array``.

    Sharpness is the variance of the Laplacian, measured at every 16th pixel with its four direct neighbours: see
    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000, and Pertuz et
    al., "Analysis of focus measure operators for shape-from-focus", Pattern Recognition 46 (2013), operator LAP4.
    """
    right, bottom = fitted.pad_x_px + fitted.inner_width_px, fitted.pad_y_px + fitted.inner_height_px
    green = model_input[fitted.pad_y_px : bottom, fitted.pad_x_px : right, _GREEN]
    if min(green.shape) < _MIN_SIDE_PX:
        return Look(float(green.mean()), float(green.std()), 0.0)
    rows, columns = slice(1, -1, _ROW_STEP), slice(1, -1, _COLUMN_STEP)
    centre = green[rows, columns].astype(np.int16)
    laplacian = -4 * centre
    laplacian += green[:-2:_ROW_STEP, columns]
    laplacian += green[2::_ROW_STEP, columns]
    laplacian += green[rows, :-2:_COLUMN_STEP]
    laplacian += green[rows, 2::_COLUMN_STEP]
    mean, deviation = cv2.meanStdDev(centre)
    _, spread = cv2.meanStdDev(laplacian)
    return Look(float(mean[0, 0]), float(deviation[0, 0]), float(spread[0, 0]) ** 2)
