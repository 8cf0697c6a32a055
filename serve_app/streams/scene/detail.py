"""The edges of a picture, and how many of them are still where they usually are.

Edges are measured in the logarithm of the grey level, so that they are as strong in weak light as in bright light. An
edge is a complex number: its absolute value is the strength, and its angle is twice the direction. So an edge from dark
to light equals an edge from light to dark, and the edges of two unrelated pictures cancel out. This is the
representation of Granlund, "In search of a general picture processing operator", 1978.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# All sizes are (width, height). Each block is judged alone, so that a caption or a clock in the picture, which no fault
# of the lens changes, does not decide for the whole picture.
SIZE_PX = (192, 108)
BLOCKS = (16, 9)
_COARSE_PX = (48, 27)

_BLACK = 10.0  # grey levels that are added before the logarithm, so that the noise in black pixels stays small
_LOG = np.log(np.arange(256) + _BLACK).astype(np.float32)
_PER_LEVEL = (1 / (np.arange(256) + _BLACK)).astype(np.float32)  # the derivative of the logarithm
_NOISE_FLOOR = 1.5  # weaker edges than this, in standard deviations of the noise, are ignored
_STRONGEST = 0.2  # stronger edges count as this, so that a few of them do not outweigh all others
_LAPLACIAN_NOISE = 20.0  # the variance of the Laplacian of noise with variance 1: 4² + 4 × 1²
_TEXTURED = 0.02**2  # a block has detail if the mean square of its edges is larger
_VISIBLE = 1.5  # a block can be judged if its usual edges exceed the noise floor by this factor

# A block shows its usual edges, or some of them, if the correlation is larger. It is about 0 for unrelated edges. Most
# blocks behind a web show some of their usual edges, among those of the web.
_SAME_EDGES, _RELATED_EDGES = 0.6, 0.2
_SOFTER = 0.4  # a block is out of focus if its second derivatives have less than this share of their usual energy
# Other edges are sharp if the ratio of their second to their first derivatives, in energy, is at least this part of the
# usual ratio. For a web in scripts/trials/scene_faults.py, which is out of focus, it is about 0.4.
_SHARP = 0.5
_MIN_SHIFT_PX = 3  # 1.5 % of the width; a camera that shakes in the wind moves less
_SHIFTED = 0.3  # the edges have moved if they correlate by this much at their new place ...
_SHIFTED_GAIN = 0.12  # ... and by this much more than at their old place

Array = NDArray[np.float32]
Edges = NDArray[np.complex64]


@dataclass(frozen=True)
class Detail:
    """The edges of a grey picture."""

    edges: Edges  # (108, 192)
    coarse: Edges  # (27, 48)
    strength: Array  # (9, 16): the mean square of the edges in each block
    curvature: Array  # (9, 16): the mean square of the second derivatives, of which a lens out of focus leaves little
    floor: Array  # (9, 16): how strong an edge must be in order to stand out from the noise

    @property
    def textured(self) -> NDArray[np.bool_]:
        """Which blocks have detail, as an array of shape (9, 16)."""
        return self.strength > _TEXTURED


@dataclass(frozen=True)
class Comparison:
    """How a picture differs from the usual one. All values but ``shift_px`` are shares from 0 to 1."""

    judged: float  # blocks that can be judged, of those that usually have detail
    kept: float  # blocks that show their usual edges, sharp or soft, of those that can be judged
    textured: float  # blocks with detail, relative to the usual number of such blocks; at most 1
    softer: float  # blocks that are less sharp than usual, of those that can be judged
    similar: float  # blocks whose edges are at least partly the usual ones, of those that can be judged
    foreign: float  # blocks with sharp edges of something else, relative to the usual number of blocks; at most 1
    shift_px: tuple[int, int]  # how far the view has moved to the right and down, at ``SIZE_PX``; (0, 0) if unknown


def detail_of(grey: Any, noise: float) -> Detail:
    """Return the edges of a grey picture of ``SIZE_PX``.

    ``noise`` is the standard deviation of the picture's noise in grey levels.
    """
    light = _LOG[grey]
    deviation = noise * _PER_LEVEL[grey]  # (108, 192): the noise of the logarithm
    floor: Array = (_NOISE_FLOOR * deviation).astype(np.float32)
    edges = _edges(light, floor)
    # Each coarse pixel is the mean of 16 pixels, so it has a quarter of the noise.
    coarse = _edges(_mean(light, _COARSE_PX), _mean(floor / 4, _COARSE_PX))
    curvature = np.minimum(np.abs(cv2.Laplacian(light, cv2.CV_32F)), 2 * _STRONGEST) ** 2
    unbiased = curvature - np.float32(_LAPLACIAN_NOISE) * deviation**2
    strength = _mean(np.abs(edges) ** 2, BLOCKS)
    return Detail(edges, coarse, strength, _mean(unbiased, BLOCKS), _mean(floor, BLOCKS))


def compare(now: Detail, usual: Detail) -> Comparison:
    """Return how ``now`` differs from ``usual``."""
    textured = usual.textured
    # Where the picture is dark, its noise hides the usual edges, even if nothing covers them.
    judged = textured & (usual.strength > (_VISIBLE * now.floor) ** 2)
    count = max(int(judged.sum()), 1)
    softer = _softer(now, usual, judged)
    similarity = _similarity(now, usual)
    kept = float((similarity > _SAME_EDGES)[judged].sum()) / count
    shift_px = (0, 0)
    if kept < 0.8:
        shift_px = _shift(now.edges, usual.edges)
    return Comparison(
        judged=count / max(int(textured.sum()), 1) if judged.any() else 0.0,
        kept=kept,
        softer=float(softer[judged].sum()) / count,
        textured=min(float(now.textured.sum()) / max(int(textured.sum()), 1), 1.0),
        similar=float((similarity > _RELATED_EDGES)[judged].sum()) / count,
        foreign=min(float(_foreign(now, usual, similarity).sum()) / max(int(textured.sum()), 1), 1.0),
        shift_px=shift_px,
    )


def _edges(light: Array, floor: Array) -> Edges:
    dx, dy = cv2.Sobel(light, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(light, cv2.CV_32F, 0, 1, scale=1 / 8)
    length = cv2.magnitude(dx, dy)
    kept = np.clip(length - floor, 0, _STRONGEST)
    gradient = (dx + 1j * dy) / np.maximum(length, 1e-6)
    edges: Edges = (gradient**2 * kept).astype(np.complex64)
    return edges


def _similarity(now: Detail, usual: Detail) -> Array:
    """Return the correlation of the edges in each block, as an array of shape (9, 16)."""
    product = _mean((now.edges * usual.edges.conj()).real, BLOCKS)
    similarity: Array = product / np.sqrt(np.maximum(now.strength * usual.strength, 1e-12))
    return similarity


def _softer(now: Detail, usual: Detail, judged: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which blocks are less sharp than usual, as an array of shape (9, 16).

    Fog or weak light may reduce the contrast of the whole picture. We therefore expect the second derivatives to have
    the same contrast as the coarse edges.
    """
    before, after = (_mean(np.abs(detail.coarse) ** 2, BLOCKS)[judged] for detail in (usual, now))
    contrast = float(np.clip(np.median(after / np.maximum(before, 1e-9)), 0.05, 1)) if len(before) else 1.0
    expected = contrast * usual.curvature
    noise = np.float32(_LAPLACIAN_NOISE) * (now.floor / _NOISE_FLOOR) ** 2
    softer: NDArray[np.bool_] = (now.curvature < _SOFTER * expected) & (noise < expected)
    return softer


def _foreign(now: Detail, usual: Detail, similarity: Array) -> NDArray[np.bool_]:
    """Return which blocks have sharp edges that are not the usual ones, as an array of shape (9, 16).

    The ratio of the second to the first derivatives does not depend on the contrast, and is smaller for wider edges. We
    compare it with the median of the usual view, because a moved camera shows other objects, but has the same lens.
    """
    textured = usual.textured
    ratio = float(np.median(usual.curvature[textured] / usual.strength[textured])) if textured.any() else 0.0
    sharp = now.curvature > _SHARP * ratio * now.strength
    foreign: NDArray[np.bool_] = now.textured & (similarity < _RELATED_EDGES) & sharp
    return foreign


def _shift(now: Edges, usual: Edges) -> tuple[int, int]:
    """Return by how many pixels all edges have moved to the right and down, or (0, 0) if they have not.

    The cross-correlation is computed with the fast Fourier transform.
    """
    products: Array = np.fft.ifft2(np.fft.fft2(now) * np.fft.fft2(usual).conj()).real.astype(np.float32)
    energy = float(np.sqrt((np.abs(now) ** 2).sum() * (np.abs(usual) ** 2).sum()))
    if energy == 0:
        return 0, 0
    y, x = np.unravel_index(int(products.argmax()), products.shape)
    best, unmoved = float(products[y, x]) / energy, float(products[0, 0]) / energy
    height, width = now.shape
    shift_px = int((x + width // 2) % width - width // 2), int((y + height // 2) % height - height // 2)
    is_far = abs(shift_px[0]) >= _MIN_SHIFT_PX or abs(shift_px[1]) >= _MIN_SHIFT_PX
    return shift_px if is_far and best > _SHIFTED and best > unmoved + _SHIFTED_GAIN else (0, 0)


def _mean(values: Any, size: tuple[int, int]) -> Array:
    """Return the means of the areas of a picture, as a picture of ``size`` (width, height)."""
    means: Array = cv2.resize(np.ascontiguousarray(values, np.float32), size, interpolation=cv2.INTER_AREA)
    return means
