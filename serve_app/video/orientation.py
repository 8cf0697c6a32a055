"""The orientation in which a video is shown: rotated by multiples of 90°, mirrored, or both."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

from serve_app.types import Pixels

_MATRIX_BYTES = 36  # nine 32-bit numbers


def _unnamed(kind: type[Type], number: Any) -> Type:
    """Return an enum member for a kind of side data, such as EXIF, that FFmpeg knows but PyAV does not."""
    member = object.__new__(kind)
    member._name_, member._value_ = f"UNNAMED_{number}", number
    return member


# PyAV reads all side data of a frame even if only one kind is requested, and fails if one kind is unknown.
Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment, method-assign]


def matrix_of(frame: Any) -> bytes | None:
    """Return the display matrix of a PyAV frame, or None if the frame has none."""
    # We do not use ``frame.side_data``, because it creates a reference cycle. The cycle would keep the frame, its
    # pixels and its conversion threads alive until the next garbage collection.
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # the stub declares no constructor
    return None if matrix is None else bytes(matrix)


def upright(pixels: Pixels, matrix: bytes | None) -> Pixels:
    """Return the pixels as a player shows them. The display matrix's rotation is rounded to multiples of 90°.

    ``matrix`` is FFmpeg's ``AV_FRAME_DATA_DISPLAYMATRIX``, from the ``tkhd`` box of ISO 14496-12, 8.3.2:
    ``a b u, c d v, x y w``. Except for an offset, the pixel at column p and row q is shown at column ``a·p + c·q`` and
    row ``b·p + d·q``.
    """
    if matrix is None or len(matrix) < _MATRIX_BYTES:
        return pixels
    a, b, _, c, d = (int(number) for number in np.frombuffer(matrix, np.int32, 5))
    shown = pixels
    across, down = a, d  # a negative number means that the image is mirrored in that direction
    if abs(b) + abs(c) > abs(a) + abs(d):
        shown = shown.transpose(1, 0, 2)
        across, down = c, b
    if across < 0:
        shown = shown[:, ::-1]
    if down < 0:
        shown = shown[::-1]
    return np.ascontiguousarray(shown)
