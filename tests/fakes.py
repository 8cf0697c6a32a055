"""Small stand-ins, each at one seam."""

from __future__ import annotations

import asyncio

import numpy as np

from serve_app.drawing import encode_jpeg
from serve_app.errors import ServeAppError, Undecodable
from serve_app.schemas import DetectQuery
from serve_app.types import Answer, Detections, DetectOptions, ModelInfo

MODEL = ModelInfo("fake", "0123456789ab", "fake", ("cat", "dog"), 640, end_to_end=False)


class FakePipeline:
    """Finds one dog as wide as the picture has bytes; the picture ``b"bad"`` is refused, ``b"slow"`` never answered."""

    def __init__(self) -> None:
        self.options: list[DetectOptions] = []
        self.refusals: list[str] = []
        self.failure: Exception | None = None

    def refused(self, error: ServeAppError) -> None:
        self.refusals.append(error.code)

    async def ready(self) -> ModelInfo:
        if self.failure:
            raise self.failure
        return MODEL

    async def detect(self, data: bytes, query: DetectQuery, *, annotate: bool, time_left_s: float) -> Answer:
        self.options.append(query.to_options(MODEL))
        if self.failure:
            raise self.failure
        if data == b"bad":
            raise Undecodable("the picture is truncated or corrupt")
        if data == b"slow":
            await asyncio.Event().wait()
        box = np.array([[0, 0, len(data), 10]], np.float32)
        return Answer(
            Detections(box, np.array([0.75], np.float32), np.array([1], np.int32)),
            labels=("dog",),
            width_px=len(data),
            height_px=10,
            model=MODEL.name,
            batch_size=3,
            timing_s={"decode": 0.001, "queue": 0.002, "inference": 0.003, "postprocess": 0.004},
            annotated=encode_jpeg(np.zeros((8, 8, 3), np.uint8)) if annotate else None,
        )
