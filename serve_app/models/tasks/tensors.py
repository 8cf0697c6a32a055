"""Reduce a model's raw output to the tensor that clients of the Open Inference Protocol read.

Such a client, for example Ultralytics over Triton, applies its own threshold and removes duplicates itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serve_app.models.engines import RawOutput
from serve_app.models.tasks import task_of
from serve_app.models.tasks.candidates import MAX_CANDIDATES
from serve_app.types import EngineInfo

MIN_CONFIDENCE = 0.001  # the threshold of Ultralytics' validation, which is the lowest in use
# Ultralytics takes a tensor whose last side is 6 for the output of an end-to-end model, so there are always more.
_MIN_COLUMNS = 8


def to_tensor(raw: RawOutput, info: EngineInfo) -> NDArray[np.float32]:
    """Return what a client needs of the raw output for one image, as a copy.

    A classification model has one probability for each class, ``(classes,)``. The output of an end-to-end model stays
    as it is, ``(n, 6 + extras)``. Of other models, the tensor has the anchors whose best score is above
    ``MIN_CONFIDENCE``, at most ``MAX_CANDIDATES`` of them, ``(4 + classes + extras, n)``: centre x, centre y, width,
    height, scores and extras. The anchors keep their order, so a client's results do not depend on the selection. If
    they are few, columns of zeros follow.
    """
    first = raw[0]
    if info.task == "classify" or info.end_to_end:
        return first.copy()
    extras, classes = task_of(info).extras(raw, info), len(info.labels)
    if first.shape[1] == 6 + extras:  # rows have only the best class: see ``heads`` and ``engines.device``
        labelled = first[(first[:, 5] >= 0) & (first[:, 5] < classes)]  # clients know only classes with labels
        columns = _columns_of(labelled[_best(labelled[:, 4])], classes, rotated=info.task == "obb")
    else:
        columns = first[:, _best(first[4 : 4 + classes].max(axis=0))]
    return np.pad(columns, ((0, 0), (0, max(_MIN_COLUMNS - columns.shape[1], 0))))


def _best(confidence: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the indices of the anchors to keep, in their order."""
    kept = np.flatnonzero(confidence > MIN_CONFIDENCE)
    if len(kept) > MAX_CANDIDATES:
        kept = np.sort(kept[np.argsort(-confidence[kept], kind="stable")[:MAX_CANDIDATES]])
    return kept


def _columns_of(rows: NDArray[np.float32], classes: int, *, rotated: bool) -> NDArray[np.float32]:
    """Convert rows, ``(n, 6 + extras)``, to columns with a score for each class, ``(4 + classes + extras, n)``.

    A row begins with the corners of a box. With ``rotated``, it begins with the centre and the sides.
    """
    scores = np.zeros((classes, len(rows)), np.float32)
    scores[rows[:, 5].astype(np.intp), np.arange(len(rows))] = rows[:, 4]
    near, far = rows[:, :2], rows[:, 2:4]
    boxes = [near, far] if rotated else [(near + far) / 2, far - near]
    return np.concatenate([np.concatenate(boxes, axis=1).T, scores, rows[:, 6:].T])
