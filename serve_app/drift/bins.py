"""The bins of every feature. They are fixed, so that histograms of all processes, hours and machines can be added.

A histogram is one array of ``BINS`` counts, in which each feature has a slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.drift.features import Look
from serve_app.types import Answer

Counts = NDArray[np.unsignedinteger[Any]]  # (BINS,)

CLASS_BINS = 96
_GRID = 4  # the position is the cell of a grid of this many rows and columns in which a box has its centre


@dataclass(frozen=True)
class Feature:
    """One measured property. A value lies in bin ``i`` if it is at least ``edges[i - 1]`` and less than ``edges[i]``.

    Without ``edges``, the bins are no numbers: a bin for each class, or for each cell of the grid.
    """

    name: str
    size: int  # the number of bins
    counts_images: bool  # whether an image has one value; otherwise, each of its detections has one
    edges: tuple[float, ...] = ()  # increasing; one less than the bins

    @property
    def is_ordered(self) -> bool:
        """Whether neighbouring bins have similar values."""
        return bool(self.edges)


def _numeric(name: str, edges: tuple[float, ...], *, counts_images: bool) -> Feature:
    return Feature(name, len(edges) + 1, counts_images, edges)


FEATURES = (
    _numeric("brightness", tuple(range(16, 256, 16)), counts_images=True),
    _numeric("contrast", tuple(range(8, 128, 8)), counts_images=True),
    _numeric("sharpness", tuple(2.0**power for power in range(15)), counts_images=True),
    _numeric("size", tuple(2.0 ** (half / 2) for half in range(26, 53)), counts_images=True),  # pixels of the image
    _numeric("detections", (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 65), counts_images=True),  # in the image
    Feature("classes", CLASS_BINS, counts_images=False),  # by the remainder of the class id
    _numeric("confidence", tuple(step / 20 for step in range(1, 20)), counts_images=False),
    _numeric("area", tuple(2.0**power for power in range(-13, 0)), counts_images=False),  # share of the image
    _numeric("aspect", tuple(2.0 ** (half / 2) for half in range(-6, 7)), counts_images=False),  # width / height
    Feature("position", _GRID * _GRID, counts_images=False),
)
_ENDS = tuple(accumulate(feature.size for feature in FEATURES))
BINS = _ENDS[-1]
SLICES = {feature.name: slice(end - feature.size, end) for feature, end in zip(FEATURES, _ENDS, strict=True)}
DETECTIONS = slice(_ENDS[3], _ENDS[4])  # its sum is the number of images
BY_NAME = {feature.name: feature for feature in FEATURES}
_EDGES = {feature.name: np.array(feature.edges) for feature in FEATURES if feature.edges}


def histogram_of(look: Look, answer: Answer) -> NDArray[np.uint16]:
    """Return the histogram of one image: one count for each feature of the image, and of each of its detections.

    An image that is classified as a whole has the most probable class and its confidence, and no other features of
    detections.
    """
    found = answer.detections
    pixels = answer.width_px * answer.height_px
    bins = [_bin_of("brightness", look.brightness), _bin_of("contrast", look.contrast)]
    bins += [_bin_of("sharpness", look.sharpness), _bin_of("size", pixels), _bin_of("detections", len(found))]
    if len(found):
        left, top, right, bottom = found.xyxy.astype(np.float64).T
        width, height = np.maximum(right - left, 1e-3), np.maximum(bottom - top, 1e-3)  # no detection has an empty box
        column = np.clip((left + right) * (_GRID / 2 / answer.width_px), 0, _GRID - 1).astype(np.intp)
        row = np.clip((top + bottom) * (_GRID / 2 / answer.height_px), 0, _GRID - 1).astype(np.intp)
        each = [
            found.class_id % CLASS_BINS + SLICES["classes"].start,
            _bins_of("confidence", found.confidence),
            _bins_of("area", width * height / pixels),
            _bins_of("aspect", width / height),
            row * _GRID + column + SLICES["position"].start,
        ]
        bins += np.concatenate(each).tolist()
    if found.classes is not None:
        bins += (found.classes.class_id[:1] % CLASS_BINS + SLICES["classes"].start).tolist()
        bins += _bins_of("confidence", found.classes.confidence[:1]).tolist()
    return np.bincount(bins, minlength=BINS).astype(np.uint16)


def images_in(counts: NDArray[Any]) -> int:
    """Return how many images a histogram has. ``counts`` has the shape (BINS,)."""
    return round(float(counts[DETECTIONS].sum()))  # the counts may be fractions


def bin_name(feature: Feature, number: int, labels: dict[int, str]) -> str:
    """Return what a bin stands for, such as ``16–32``, ``person``, or ``row 1, column 4``."""
    if feature.name == "classes":
        named = [label for class_id, label in sorted(labels.items()) if class_id % CLASS_BINS == number]
        return " / ".join(named) or f"class {number}"
    if feature.name == "position":
        return f"row {number // _GRID + 1}, column {number % _GRID + 1}"
    lower = f"{feature.edges[number - 1]:.4g}" if number else ""
    upper = f"{feature.edges[number]:.4g}" if number < len(feature.edges) else ""
    return f"{lower}–{upper}" if lower and upper else f"under {upper}" if upper else f"{lower} and more"


def _bin_of(name: str, value: float) -> int:
    value = value if math.isfinite(value) else 0.0
    return int(_EDGES[name].searchsorted(value, side="right")) + SLICES[name].start


def _bins_of(name: str, values: NDArray[Any]) -> NDArray[np.intp]:
    found: NDArray[np.intp] = _EDGES[name].searchsorted(values, side="right") + SLICES[name].start
    return found
