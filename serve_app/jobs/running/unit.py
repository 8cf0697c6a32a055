"""A unit in progress, and what all units of a runner share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from serve_app.config import JpegDecoding
from serve_app.errors import ModelChanged, Overloaded, ServeAppError
from serve_app.images.outlines import with_outlines
from serve_app.images.threads import DecodeThreads
from serve_app.ipc.frame_pool import FramePool, Slot
from serve_app.ipc.quarantine import Quarantine
from serve_app.jobs.limits import ByteBudget, InFlight, Window
from serve_app.jobs.running.opened import OpenJob
from serve_app.jobs.running.tally import Tally
from serve_app.jobs.running.tries import Tries
from serve_app.jobs.units import Unit
from serve_app.schemas.jobs import JobSpec
from serve_app.types import Answer, DetectOptions, Letterbox, ModelInfo

logger = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.1  # after a Detector's refusal


class JobDetector(Protocol):
    """The calls that a runner makes to the Detector. ``deployments.detector_client.DetectorClient`` implements them."""

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
        tenant: str,
    ) -> Answer: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Shared:
    """What all units of a runner share."""

    budget: ByteBudget
    reads: asyncio.Semaphore  # how many items may be read at the same time
    threads: DecodeThreads
    video_threads: DecodeThreads  # threads of their own, because they also wait for the video's bytes
    quarantine: Quarantine
    tries: Tries  # of reading items
    max_pixels: int
    decoding: JpegDecoding
    max_body_bytes: int
    slots: int
    unit_time_s: float


@dataclass
class RunningUnit:
    """A unit in progress."""

    unit: Unit
    spec: JobSpec
    model_version: str | None
    detector: JobDetector
    window: Window
    job: OpenJob
    tally: Tally
    expires_at_s: float  # on the event loop's clock

    @property
    def time_left_s(self) -> float:
        """How many seconds are left for this unit."""
        return self.expires_at_s - asyncio.get_running_loop().time()

    async def model(self) -> tuple[ModelInfo, DetectOptions]:
        """Return the served model and the thresholds for it. Raise ModelChanged if the job began with another model."""
        model = await self.detector.model(self.time_left_s)
        if self.model_version not in (None, model.version):
            self.detector.forget_model()  # this runner may have been idle since the model has changed
            model = await self.detector.model(self.time_left_s)
            if self.model_version != model.version:
                raise ModelChanged(
                    f"the job began with version {self.model_version} of the model, and the Detectors now serve "
                    f"{model.name}@{model.version}"
                )
        return model, self.spec.detect.to_params().to_options(model)

    async def ask(
        self, place: InFlight, slot: Slot, fitted: Letterbox, model: ModelInfo, options: DetectOptions
    ) -> Answer | None:
        """Return the Detectors' answer to a model input, or None if they are busy."""
        try:
            answer = await self.detector.detect(
                slot, fitted, model, options, time_left_s=self.time_left_s, tenant=self.unit.job_id
            )
        except Overloaded:
            place.refused()
            return None
        place.answered(answer.timing.queue_s)
        return answer


async def described(answer: Answer, work: RunningUnit, shared: Shared) -> Answer:
    """Return the answer with descriptions of its masks, as results have them, if it has masks."""
    found = answer.detections
    if found.masks is None:
        return answer
    arguments = found, answer.width_px, answer.height_px, work.spec.detect.mask
    return replace(answer, detections=await shared.threads.run(lambda: with_outlines(*arguments)))


def internal_error(unit: Unit, item: int, error: Exception) -> ServeAppError:
    """Log an unexpected error of an item, and return an error for the item's owner."""
    logger.error("job %s: item %d failed", unit.job_id, item, exc_info=error)
    return ServeAppError(f"internal error: {type(error).__name__}")


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """Run tasks in a group. If one fails, cancel the others and raise its error."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
