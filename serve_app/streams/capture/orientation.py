"""How a video is to be shown: turned by quarters, mirrored, or both."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

from serve_app.types import Pixels

_MATRIX_BYTES = 36  # nine numbers of 32 bits


def _unnamed(kind: type[Type], number: Any) -> Type:
    """A kind of data beside a frame that FFmpeg knows and PyAV does not, such as EXIF."""
    member = object.__new__(kind)
    member._name_, member._value_ = f"UNNAMED_{number}", number
    return member


# PyAV makes objects of all that lies beside a frame when one is asked for, and fails where it cannot name one.
Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment, method-assign]


def matrix_of(frame: Any) -> bytes | None:
    """Return the display matrix of a frame of PyAV's, for ``upright``."""
    # Not ``frame.side_data``, by which the frame refers to itself: it would wait for the garbage collector, with its
    # pixels and the threads that converted it.
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # its stub has no constructor
    return None if matrix is None else bytes(matrix)


def upright(pixels: Pixels, matrix: bytes | None) -> Pixels:
    """Return the picture as a player shows it, by its display matrix, turned to the nearest quarter.

    ``matrix``: FFmpeg's ``AV_FRAME_DATA_DISPLAYMATRIX``, after the ``tkhd`` box of ISO 14496-12, 8.3.2: ``a b u, c d v,
    x y w``; a pixel at column p and row q is shown at column ``a·p + c·q`` and row ``b·p + d·q``, but for an offset.
    """
    if matrix is None or len(matrix) < _MATRIX_BYTES:
        return pixels
    a, b, _, c, d = (int(number) for number in np.frombuffer(matrix, np.int32, 5))
    shown = pixels
    across, down = a, d  # which of the picture's ways is the screen's, and whether it runs backwards
    if abs(b) + abs(c) > abs(a) + abs(d):
        shown = shown.transpose(1, 0, 2)
        across, down = c, b
    if across < 0:
        shown = shown[:, ::-1]
    if down < 0:
        shown = shown[::-1]
    return np.ascontiguousarray(shown)
