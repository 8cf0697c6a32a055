"""Engines without a model, which find nothing. They are used to measure the rest of the service."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from serve_app.models.engines import RawOutput
from serve_app.models.shapes import rectangles
from serve_app.types import EngineInfo, InputShape, Pixels

_BATCH_S = 0.2
_STRIDE_PX = 32  # that of most YOLO models


class SimulatedEngine:
    """Engine ``null``, which answers at once, or ``sleep``, which takes 0.2 s per batch but no CPU time, like a GPU."""

    concurrency = 1
    takes_batches = True
    preparation = None

    def __init__(self, kind: str, *, input_shape: InputShape, rectangular: bool) -> None:
        self.info = EngineInfo(
            name=kind,
            version=kind,
            engine=kind,
            labels=("nothing",),
            input_shape=input_shape,
            end_to_end=True,
            rectangles=rectangles(input_shape, _STRIDE_PX) if rectangular else (),
        )
        self._batch_s = {"null": 0.0, "sleep": _BATCH_S}[kind]

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[RawOutput]:
        """Return empty outputs for the frames: see ``Engine``."""
        if self._batch_s:
            time.sleep(self._batch_s)
        return [(np.empty((0, 6), np.float32),) for _ in frames]
