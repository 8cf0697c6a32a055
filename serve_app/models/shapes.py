"""Choose the shapes of inputs for a model that takes any size, so that photographs and videos need little padding.

In ``images.letterbox``, each image then gets the smallest shape that holds it at the scale of the square.
"""

from __future__ import annotations

from serve_app.types import InputShape

_ASPECT_RATIOS = ((4, 3), (3, 2), (16, 9))  # of the pictures of most cameras


def rectangles(square: InputShape, stride_px: int) -> tuple[InputShape, ...]:
    """Return a rectangle for each aspect ratio in both orientations, the smallest first.

    The longer side is the square's side. The shorter side is rounded up to a multiple of ``stride_px``, the largest
    stride of the network. A rectangle that would be as large as the square is left out. If ``square`` is not a square,
    there are no rectangles.
    """
    side_px = square.width_px
    if square.height_px != side_px:
        return ()
    shorter_px = {-(-side_px * short // (long * stride_px)) * stride_px for long, short in _ASPECT_RATIOS}
    return tuple(
        shape
        for short_px in sorted(shorter_px)
        if short_px < side_px
        for shape in (InputShape(short_px, side_px), InputShape(side_px, short_px))
    )
