"""The task ``detect``: an upright box for each object."""

from __future__ import annotations

from serve_app.detections import Detections
from serve_app.models.engines import RawOutput
from serve_app.models.tasks.candidates import find_candidates
from serve_app.models.tasks.suppression import suppress
from serve_app.types import DetectOptions, EngineInfo


def extras(raw: RawOutput, info: EngineInfo) -> int:
    """Return how many further numbers the task adds to each candidate: none."""
    return 0


def to_detections(raw: RawOutput, info: EngineInfo, options: DetectOptions) -> Detections:
    """Return the detections: see ``models.tasks.to_detections``. ``raw`` has one array: see ``find_candidates``."""
    (candidates,) = raw
    return suppress(find_candidates(candidates, info, options), info, options).to_detections()
