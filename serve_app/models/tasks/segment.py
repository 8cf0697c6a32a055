"""The task ``segment``: a box and a mask for each object."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Detections, Mask
from serve_app.models.engines import RawOutput
from serve_app.models.tasks.candidates import find_candidates
from serve_app.models.tasks.suppression import suppress
from serve_app.types import DetectOptions, EngineInfo

PROTOTYPE_PX = 4  # the width and the height of a prototype's pixel, in pixels of the model input


def extras(raw: RawOutput, info: EngineInfo) -> int:
    """Return how many further numbers the task adds to each candidate: one coefficient for each prototype."""
    return len(raw[1])


def to_detections(raw: RawOutput, info: EngineInfo, options: DetectOptions) -> Detections:
    """Return the detections with their masks: see ``models.tasks.to_detections``.

    ``raw`` has two arrays: the candidates (see ``find_candidates``), whose extras are one coefficient for each
    prototype, and the prototypes, ``(prototypes, rows, columns)``. An object whose mask is empty is left out, as
    Ultralytics does.
    """
    candidates, prototypes = raw
    kept = suppress(find_candidates(candidates, info, options, extras=extras(raw, info)), info, options)
    # A pixel belongs to a box if its index is not smaller than the box's left or top side, and smaller than its right
    # or bottom side, as in Ultralytics' ``crop_mask``.
    limit = np.array([prototypes.shape[2], prototypes.shape[1]] * 2) * PROTOTYPE_PX
    sides = np.ceil(kept.boxes).clip(0, limit).astype(int).tolist()
    masks = [_mask(box, own, prototypes) for box, own in zip(sides, kept.extras, strict=True)]
    kept = kept.select(np.flatnonzero([mask is not None for mask in masks]))
    return replace(kept.to_detections(), masks=tuple(mask for mask in masks if mask is not None))


def _mask(box: list[int], coefficients: NDArray[np.float32], prototypes: NDArray[np.float32]) -> Mask | None:
    """Return the mask of one candidate inside its box, or None if no pixel belongs to it.

    ``box`` has the left, top, right and bottom sides in whole pixels. The pixels of the mask are those of Ultralytics'
    ``process_mask`` with ``upsample=True``. Only the part of the prototypes around the box is used, so the time depends
    on the size of the box.
    """
    left, top, right, bottom = box
    if left >= right or top >= bottom:
        return None
    count, rows, columns = prototypes.shape
    # The pixels around the box are needed for the interpolation at its edges.
    x1, x2 = max(left // PROTOTYPE_PX - 1, 0), min(math.ceil(right / PROTOTYPE_PX) + 1, columns)
    y1, y2 = max(top // PROTOTYPE_PX - 1, 0), min(math.ceil(bottom / PROTOTYPE_PX) + 1, rows)
    logits = coefficients @ prototypes[:, y1:y2, x1:x2].reshape(count, -1)
    size = (x2 - x1) * PROTOTYPE_PX, (y2 - y1) * PROTOTYPE_PX
    large = cv2.resize(logits.reshape(y2 - y1, x2 - x1), size, interpolation=cv2.INTER_LINEAR)
    x, y = left - x1 * PROTOTYPE_PX, top - y1 * PROTOTYPE_PX
    bits = large[y : y + bottom - top, x : x + right - left] > 0
    return Mask(bits, (left, top, right, bottom)) if bits.any() else None
