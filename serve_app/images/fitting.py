"""Fit an image into the model input in the way that its model needs: as a letterbox, or as a crop of its centre."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serve_app.images import crop, letterbox
from serve_app.types import Fitting, InputShape, Letterbox, Pixels


def place(
    pixels: Pixels,
    shapes: Sequence[InputShape],
    frame_of: Callable[[InputShape], Pixels],
    fitting: Fitting = "letterbox",
) -> Letterbox:
    """Fit an image into the smallest suitable model input, and return its position there.

    ``shapes`` are ordered, the smallest first. A crop always gets the last of them. ``frame_of`` returns the array for
    a model input of the chosen shape.
    """
    if fitting == "crop":
        return crop.crop(pixels, frame_of(shapes[-1]))
    return letterbox.place(pixels, shapes, frame_of)
