"""The task ``classify``: the most probable classes of the whole image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serve_app.detections import Detections, Ranking
from serve_app.models.engines import RawOutput
from serve_app.models.tasks.candidates import thresholds_of
from serve_app.types import DetectOptions, EngineInfo

MAX_CLASSES = 5  # the number of classes in a result, unless a request sets ``max_detections``


def extras(raw: RawOutput, info: EngineInfo) -> int:
    """Return how many further numbers the task adds to each candidate: there are no candidates."""
    return 0


def to_detections(raw: RawOutput, info: EngineInfo, options: DetectOptions) -> Detections:
    """Return the classes whose probability is at least the threshold of their class, the most probable first.

    ``raw`` has one array of shape ``(classes,)``: the probability of each class. There are no objects.
    """
    (probabilities,) = raw
    class_id = np.arange(len(probabilities), dtype=np.int32)
    wanted = probabilities >= thresholds_of(class_id, options)
    if options.class_ids is not None:
        wanted &= np.isin(class_id, options.class_ids)
    ranked = np.argsort(-probabilities, kind="stable")
    best = ranked[wanted[ranked]][: options.max_detections].astype(np.int32)
    return replace(Detections.empty(), classes=Ranking(best, probabilities[best]))
