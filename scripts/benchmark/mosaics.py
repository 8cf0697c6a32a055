"""Large images with fine detail, put together from photographs at their own size."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from scripts.codes.scenes import Scene, Truth


def mosaic(tiles: list[Scene], size_px: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Fill an image of (width, height) with photographs at their own size, in random order."""
    width, height = size_px
    pixels = np.zeros((height, width, 3), np.uint8)
    truths: list[Truth] = []
    top = 0
    while top < height:
        left, row_px = 0, height
        while left < width:
            chosen = tiles[rng.integers(len(tiles))]
            part = chosen.pixels[: height - top, : width - left]
            pixels[top : top + part.shape[0], left : left + part.shape[1]] = part
            truths += clipped(chosen.truths, (-left, -top), size_px)
            left += part.shape[1]
            row_px = min(row_px, part.shape[0])
        truths = clipped(truths, (0, 0), (width, top + row_px))  # the next row covers the rest
        top += row_px
    return Scene(pixels, tuple(truths))


def clipped(truths: Iterable[Truth], origin: tuple[int, int], size_px: tuple[int, int]) -> list[Truth]:
    """Return the truths in a part of an image, without those of which less than three quarters are visible."""
    kept = []
    for truth in truths:
        x1, y1, x2, y2 = np.array(truth.box) - [*origin, *origin]
        box = max(x1, 0.0), max(y1, 0.0), min(x2, size_px[0]), min(y2, size_px[1])
        sides = box[2] - box[0], box[3] - box[1]
        if min(sides) > 0 and sides[0] * sides[1] >= 0.75 * (x2 - x1) * (y2 - y1):
            kept.append(Truth(truth.label, truth.payload, (float(box[0]), float(box[1]), float(box[2]), float(box[3]))))
    return kept
