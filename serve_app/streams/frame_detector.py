"""The Detector, as a stream sees it."""

from __future__ import annotations

from typing import Protocol

from serve_app.ipc.frame_pool import FramePool, Slot
from serve_app.types import Answer, DetectOptions, Letterbox, ModelInfo


class FrameDetector(Protocol):
    """The calls that a stream makes to the Detector. ``deployments.detector_client.DetectorClient`` implements them."""

    async def connect(self) -> ModelInfo: ...
    async def model(self, time_left_s: float) -> ModelInfo: ...
    def forget_model(self) -> None: ...
    @property
    def pool(self) -> FramePool: ...
    async def detect(
        self,
        slot: Slot,
        fitted: Letterbox,
        model: ModelInfo,
        options: DetectOptions,
        *,
        time_left_s: float,
        superseded: int,
    ) -> Answer: ...
    def close(self) -> None: ...
