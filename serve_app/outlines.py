"""Masks as results describe them: COCO's run-length encoding (RLE), and outlines.

The encoding is that of pycocotools (``rleEncode`` and ``rleToString`` in ``common/maskApi.c`` of
https://github.com/cocodataset/cocoapi): the lengths of runs of pixels outside and inside the mask, by columns from the
top left corner, of which the first is outside. From the fourth on, each length is written as its difference from the
one two before. A number is written in groups of five bits, the lowest first, each as one character from ``0`` on. The
sixth bit says that another group follows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Mask, Rings, Rle

_GROUPS = 7  # of five bits, enough for 32-bit differences
_FIRST = 48  # the character 0


def rle_of(mask: Mask, width_px: int, height_px: int) -> Rle:
    """Return a mask as the RLE of an image of this size. A pixel is inside if its centre is inside the mask."""
    rows, columns = mask.bits.shape
    left, top, right, bottom = mask.xyxy
    x = np.arange(_first_pixel(left, width_px), _first_pixel(right, width_px))
    column = np.clip(((x + 0.5 - left) * columns / max(right - left, 1e-6)).astype(np.intp), 0, columns - 1)
    # The runs of the bitmap's columns, and the pixels of the image in which they begin and end.
    steps = np.diff(np.pad(mask.bits.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    run_column, first_row = np.nonzero(steps == 1)
    edges = np.stack([first_row, np.nonzero(steps == -1)[1]])
    edges_px = np.clip(np.ceil(top + edges * ((bottom - top) / rows) - 0.5), 0, height_px).astype(np.int64)
    # Each column of the image has the runs of its column of the bitmap.
    count = np.bincount(run_column, minlength=columns)
    repeats = count[column]
    offset = np.repeat(np.cumsum(count)[column] - repeats - (np.cumsum(repeats) - repeats), repeats)
    begin, end = edges_px[:, offset + np.arange(repeats.sum())] + np.repeat(x, repeats) * height_px
    begin, end = begin[end > begin], end[end > begin]
    apart = begin[1:] > end[:-1]  # a run may continue at the top of the next column
    begin, end = begin[np.append(True, apart)[: len(begin)]], end[np.append(apart, True)[: len(end)]]
    borders = np.concatenate([[0], np.stack([begin, end], 1).ravel(), [width_px * height_px]])
    lengths = np.diff(borders)
    return Rle(height_px, width_px, _to_text(lengths if lengths[-1] or len(lengths) == 1 else lengths[:-1]))


def mask_of_rle(rle: Rle) -> Mask:
    """Return the part of an image that has the mask, in pixels. Raise ValueError if ``counts`` is invalid."""
    borders = np.cumsum(_from_text(rle.counts))
    height = rle.height_px
    if len(borders) == 0 or borders[-1] != height * rle.width_px or (np.diff(borders) < 0).any():
        raise ValueError(f"the RLE does not describe {rle.width_px} columns of {height} pixels")
    begin, end = borders[:-1:2], borders[1::2]
    begin, end = begin[end > begin], end[end > begin]
    if len(begin) == 0:
        return Mask(np.zeros((1, 1), np.bool_), (0.0, 0.0, 1.0, 1.0))
    first, last = int(begin[0]) // height, int(end[-1] - 1) // height + 1
    steps = np.zeros((last - first) * height + 1, np.int8)
    steps[begin - first * height] = 1
    steps[end - first * height] -= 1
    pixels = np.cumsum(steps[:-1], dtype=np.int8).reshape(last - first, height).T.astype(np.bool_)
    used = np.flatnonzero(pixels.any(1))
    top, bottom = int(used[0]), int(used[-1]) + 1
    return Mask(np.ascontiguousarray(pixels[top:bottom]), (float(first), float(top), float(last), float(bottom)))


def mask_of_rings(rings: Rings) -> Mask:
    """Return what the outlines enclose, in pixels of the image. A pixel is inside if its centre is."""
    closed = [np.array(ring, np.float64).reshape(-1, 2) for ring in rings if ring]
    if not closed:
        return Mask(np.zeros((1, 1), np.bool_), (0.0, 0.0, 1.0, 1.0))
    points = np.concatenate(closed)
    left, top = np.floor(points.min(0)).astype(np.int64)
    right, bottom = np.maximum(np.ceil(points.max(0)).astype(np.int64), (left + 1, top + 1))
    crossings = np.zeros((bottom - top, right - left + 1), np.int32)
    for ring in closed:
        (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, 0).T
        # The rows of pixels whose centres the edge passes. The pixels to the right of the crossing change sides.
        first = np.ceil(np.minimum(y0, y1) - 0.5).astype(np.int64)
        count = np.ceil(np.maximum(y0, y1) - 0.5).astype(np.int64) - first
        edge = np.repeat(np.arange(len(ring)), count)
        row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        x = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        np.add.at(crossings, (row - top, np.ceil(x - 0.5).astype(np.int64) - left), 1)
    inside = np.cumsum(crossings[:, :-1], axis=1) % 2 == 1
    return Mask(inside, (float(left), float(top), float(right), float(bottom)))


def _first_pixel(edge_px: float, size_px: int) -> int:
    """Return the first pixel whose centre is not before an edge."""
    return int(np.clip(np.ceil(edge_px - 0.5), 0, size_px))


def _to_text(lengths: NDArray[np.int64]) -> str:
    values = lengths.copy()
    values[3:] -= lengths[1:-2]
    groups = np.zeros((len(values), _GROUPS), np.uint8)
    is_used = np.zeros(groups.shape, np.bool_)
    is_open = np.ones(len(values), np.bool_)
    for index in range(_GROUPS):
        low = values & 31
        values = values >> 5
        is_used[:, index] = is_open
        follows = np.where(low & 16, values != -1, values != 0)  # the highest bit of the last group is the sign
        groups[:, index] = low + 32 * follows + _FIRST
        is_open = is_open & follows
        if not is_open.any():
            break
    return groups[is_used].tobytes().decode("ascii")


def _from_text(counts: str) -> NDArray[np.int64]:
    groups = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - _FIRST
    is_last = (groups & 32) == 0
    if len(groups) == 0 or ((groups < 0) | (groups > 63)).any() or not is_last[-1]:
        raise ValueError("counts: these are not the counts of an RLE")
    ends = np.flatnonzero(is_last)
    starts = np.append(0, ends[:-1] + 1)
    place = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)
    if place.max() >= _GROUPS:
        raise ValueError("counts: a number of the RLE is too large")
    values = np.add.reduceat((groups & 31) << (5 * place), starts)
    values -= np.where(groups[ends] & 16, np.int64(1) << (5 * (place[ends] + 1)), 0)
    for first in (1, 2):  # each length is relative to the one two before
        values[first::2] = np.cumsum(values[first::2])
    return values
