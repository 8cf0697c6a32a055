"""The task ``pose``: a box and keypoints for each object."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serve_app.detections import Detections
from serve_app.models.engines import RawOutput
from serve_app.models.tasks.candidates import find_candidates
from serve_app.models.tasks.suppression import suppress
from serve_app.types import DetectOptions, EngineInfo


def extras(raw: RawOutput, info: EngineInfo) -> int:
    """Return how many further numbers the task adds to each candidate: two or three for each keypoint."""
    count = len(info.keypoints)
    height, width = int(raw[0].shape[0]), int(raw[0].shape[1])
    return width - 6 if width - 6 in (2 * count, 3 * count) else height - 4 - len(info.labels)


def to_detections(raw: RawOutput, info: EngineInfo, options: DetectOptions) -> Detections:
    """Return the detections with their keypoints: see ``models.tasks.to_detections``.

    ``raw`` has one array: see ``find_candidates``. Its extras are x, y and confidence of each keypoint. Some models
    return no confidence of keypoints. It is then 1.
    """
    (candidates,) = raw
    added, count = extras(raw, info), len(info.keypoints)
    kept = suppress(find_candidates(candidates, info, options, extras=added), info, options)
    numbers = added // count
    keypoints = np.ones((len(kept.confidence), count, 3), np.float32)
    keypoints[:, :, :numbers] = kept.extras.reshape(-1, count, numbers)
    return replace(kept.to_detections(), keypoints=keypoints)
