"""The orientation in which a video is shown: rotated by multiples of 90°, mirrored, or both."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

from serve_app.types import Pixels

_MATRIX_BYTES = 36  # nine 32-bit numbers


def _unnamed(kind: type[Type], number: Any) -> Type:
    """Return a member for a kind of side data that FFmpeg knows and PyAV does not, such as EXIF."""
    member = object.__new__(kind)
    member._name_, member._value_ = f"UNNAMED_{number}", number
    return member


# PyAV converts all side data of a frame when one kind is requested, and fails if it does not know another kind.
Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment, method-assign]


def matrix_of(frame: Any) -> bytes | None:
    """Return the display matrix of a PyAV frame, for ``upright``."""
    # We do not use ``frame.side_data``, because it makes a reference cycle. The frame, its pixels and the threads that
    # converted it would then live until the next garbage collection.
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # the stub declares no constructor
    return None if matrix is None else bytes(matrix)


def upright(pixels: Pixels, matrix: bytes | None) -> Pixels:
    """Return the pixels as a player shows them: apply the display matrix, rounded to multiples of 90°.

    ``matrix`` is FFmpeg's ``AV_FRAME_DATA_DISPLAYMATRIX``, from the ``tkhd`` box of ISO 14496-12, 8.3.2:
    ``a b u, c d v, x y w``. Up to an offset, the pixel at column p and row q is shown at column ``a·p + c·q`` and row
    ``b·p + d·q``.
    """
    if matrix is None or len(matrix) < _MATRIX_BYTES:
        return pixels
    a, b, _, c, d = (int(number) for number in np.frombuffer(matrix, np.int32, 5))
    shown = pixels
    across, down = a, d  # negative: mirrored in that direction
    if abs(b) + abs(c) > abs(a) + abs(d):
        shown = shown.transpose(1, 0, 2)
        across, down = c, b
    if across < 0:
        shown = shown[:, ::-1]
    if down < 0:
        shown = shown[::-1]
    return np.ascontiguousarray(shown)
