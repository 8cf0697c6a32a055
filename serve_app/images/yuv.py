"""Convert the decoded frame of a still image to 8-bit BGR with the matrices of ITU-T H.273."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from numpy.typing import NDArray

from serve_app.images.ffmpeg import plane_rows
from serve_app.images.limits import unsupported
from serve_app.types import Pixels

_IDENTITY, _UNSPECIFIED = 0, 2
_WEIGHTS = {  # matrix_coefficients of H.273 (table 4): the weights of red and blue in luma
    1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593),
}  # fmt: skip
_DEFAULT = 6
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
# We convert this many rows at a time. Converting all rows in one step would need memory for a second copy of the image.
_BAND_ROWS = 256


@dataclass(frozen=True)
class Colours:
    """The colour matrix and range of an image's samples."""

    matrix: int  # H.273's matrix_coefficients
    is_full_range: bool


def to_bgr(frame: VideoFrame, colours: Colours | None) -> Pixels:
    """Return the frame's pixels as BGR.

    ``colours``: the colour matrix and range that the file gives, or None to use those of the frame. Chroma samples are
    centred between their pixels, as in JPEG. Raise Undecodable for unsupported bit depths and colour matrices.
    """
    if colours is None:
        colours = Colours(int(frame.colorspace), int(frame.color_range) == _FULL_RANGE)
    component = frame.format.components[0]
    depth = component.bits
    if not 8 <= depth <= 12 or frame.format.is_big_endian:
        raise unsupported(f"an image with {depth} bits per sample")
    planes = [_samples(plane, depth) for plane in frame.planes[: 1 if len(frame.planes) < 3 else 3]]
    if frame.format.name.startswith("gbr"):  # the planes are green, blue and red, as for H.273's identity matrix
        matrix = _bgr_matrix(Colours(_IDENTITY, colours.is_full_range), depth)
    elif len(planes) == 1:
        matrix = _bgr_matrix(Colours(_DEFAULT, colours.is_full_range), depth)
    else:
        matrix = _bgr_matrix(colours, depth)
    pixels = np.empty((frame.height, frame.width, 3), np.uint8)
    for top in range(0, frame.height, _BAND_ROWS):
        band = pixels[top : top + _BAND_ROWS]
        luma = planes[0][top : top + len(band)]
        if len(planes) == 1:
            middle = np.full_like(luma, 1 << depth - 1)
            parts = [luma, middle, middle]
        else:
            parts = [luma, *(_upsample(plane, luma.shape, top, frame.height) for plane in planes[1:])]
        band[:] = _to_eight_bits(cv2.transform(cv2.merge(parts), matrix), depth)
    return pixels


def _samples(plane: VideoPlane, depth: int) -> NDArray[Any]:
    """Return a plane's samples without the padding of its rows."""
    numbers: NDArray[Any] = plane_rows(plane).view(np.uint8 if depth == 8 else np.dtype("<u2"))
    return numbers[:, : plane.width]


def _upsample(plane: NDArray[np.uint16], shape: tuple[int, ...], top: int, height: int) -> NDArray[np.uint16]:
    """Return the part of a chroma plane that belongs to a band of luma rows. Scale this part to the band's size."""
    rows, columns = shape
    down = 2 if len(plane) < height else 1
    if down == 1 and plane.shape[1] == columns:
        return plane[top : top + rows]
    first = max(0, top // down - 1)
    last = min(len(plane), -(-(top + rows) // down) + 1)
    part = np.ascontiguousarray(plane[first:last])
    across = 2 if plane.shape[1] < columns else 1
    large = cv2.resize(part, (part.shape[1] * across, part.shape[0] * down), interpolation=cv2.INTER_LINEAR)
    start = top - first * down
    return large[start : start + rows, :columns]  # type: ignore[no-any-return]


def _bgr_matrix(colours: Colours, depth: int) -> NDArray[np.float32]:
    """Return the matrix from Y, Cb and Cr to B, G and R of the same depth.

    If ``colours`` has the identity matrix of H.273, the returned matrix converts from G, B and R instead.
    """
    max_value = (1 << depth) - 1
    unit = 1 << depth - 8
    black, luma_span, chroma_span = (
        (0, max_value, max_value) if colours.is_full_range else (16 * unit, 219 * unit, 224 * unit)
    )
    if colours.matrix == _IDENTITY:
        scale = max_value / luma_span
        rows = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]], np.float64) * scale
        return np.hstack([rows, -rows @ np.full((3, 1), float(black))]).astype(np.float32)
    matrix_id = _DEFAULT if colours.matrix == _UNSPECIFIED else colours.matrix
    if matrix_id not in _WEIGHTS:
        raise unsupported(f"an image with the colour matrix {colours.matrix}")
    red, blue = _WEIGHTS[matrix_id]
    green = 1 - red - blue
    rows = np.array(
        [
            [1, 2 * (1 - blue), 0],
            [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
            [1, 0, 2 * (1 - red)],
        ]
    ) @ np.diag([max_value / luma_span, max_value / chroma_span, max_value / chroma_span])
    zero = np.array([[black], [1 << depth - 1], [1 << depth - 1]], np.float64)
    return np.hstack([rows, -rows @ zero]).astype(np.float32)


def _to_eight_bits(pixels: NDArray[np.uint16], depth: int) -> Pixels:
    if depth == 8:
        return pixels  # type: ignore[return-value]
    return cv2.convertScaleAbs(pixels, alpha=255 / ((1 << depth) - 1))  # type: ignore[no-any-return]
