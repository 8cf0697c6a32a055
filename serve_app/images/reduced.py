"""Images that were decoded at a half, a quarter or an eighth of their size, because the model input is far smaller.

A reduced image and the whole image give model inputs with the same scale and padding, so boxes are mapped back in the
same way. If a side of the image is no multiple of the factor, the last pixels of the reduced image lie partly outside
the image. The scale takes this into account.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2

from serve_app.images import orientation
from serve_app.images.letterbox import choose_shape, fit, pad, place
from serve_app.types import InputShape, Letterbox, Pixels

# scripts/README.md, "Reduced decoding", has the measurement behind this choice.
MARGIN = 1.5  # a reduced image has at least this many times the width and the height that it has in the model input
_FACTORS = (8, 4, 2)  # of libjpeg, the largest first


@dataclass(frozen=True)
class Reduced:
    """An image in which each pixel stands for ``factor`` × ``factor`` pixels of the file. A factor of 1 is allowed."""

    pixels: Pixels  # not yet upright if the factor is more than 1
    factor: int = 1
    orientation: int = orientation.UPRIGHT  # still to be applied to the pixels
    width_px: int = 0  # the upright size of the whole image, if the factor is more than 1
    height_px: int = 0


def choose_factor(width_px: int, height_px: int, shape: InputShape, margin: float = MARGIN) -> int:
    """Return the largest factor that leaves ``margin`` times the size that the image has in the model input, or 1.

    ``width_px`` and ``height_px`` are the upright size of the whole image.
    """
    fitted = fit(width_px, height_px, shape)
    scale = min(width_px / fitted.inner_width_px, height_px / fitted.inner_height_px)
    return next((factor for factor in _FACTORS if factor * margin <= scale), 1)


def place_reduced(image: Reduced, shapes: Sequence[InputShape], frame_of: Callable[[InputShape], Pixels]) -> Letterbox:
    """Fit an image into the smallest suitable model input: see ``letterbox.place``. Return its position there.

    The position is that of the whole image.
    """
    if image.factor == 1:
        return place(image.pixels, shapes, frame_of)
    shape = choose_shape(image.width_px, image.height_px, shapes)
    fitted = fit(image.width_px, image.height_px, shape)
    inner = pad(frame_of(shape), fitted)
    # We turn the image after it was scaled, because the pixels that lie partly outside are at the right and the bottom
    # of the image in the file.
    (width_px, inner_width_px), (height_px, inner_height_px) = (
        (image.width_px, fitted.inner_width_px),
        (image.height_px, fitted.inner_height_px),
    )
    if orientation.swaps_sides(image.orientation):
        width_px, height_px, inner_width_px, inner_height_px = height_px, width_px, inner_height_px, inner_width_px
    scaled = cv2.resize(
        image.pixels,
        None,
        fx=inner_width_px * image.factor / width_px,
        fy=inner_height_px * image.factor / height_px,
        interpolation=cv2.INTER_LINEAR,
    )
    inner[:] = orientation.apply(scaled[:inner_height_px, :inner_width_px], image.orientation)
    return fitted
