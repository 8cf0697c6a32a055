"""The Preprocessor: a deployment that decodes a picture into a slot, and asks the Detector about it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from ray.serve.handle import DeploymentHandle

from serve_app.config import AppArgs, cores
from serve_app.deployments.detector_client import DetectorClient
from serve_app.deployments.handles import close, listen, refusals_as_values
from serve_app.deployments.ray_metrics import RayInstrument
from serve_app.errors import ModelChanged, Unavailable
from serve_app.images.drawing import encode_jpeg
from serve_app.images.prepare import annotated, preprocess, preprocessed
from serve_app.ipc.quarantine import Quarantine
from serve_app.ipc.rpc import Method
from serve_app.overload.limits import WaitingRoom
from serve_app.schemas.detect import DetectQuery
from serve_app.telemetry.metrics import (
    STAGE_MS,
    Telemetry,
)
from serve_app.types import DEFAULT_MODEL, Answer, ModelInfo

logger = logging.getLogger(__name__)

_DECODER_WEDGED_AFTER_S = 20.0  # in one picture: the largest take two
_MODEL_CHANGED_PAUSE_S = 0.05
T = TypeVar("T")


@dataclass(frozen=True)
class _Lane:
    """The Detectors of one model, and who waits for them: not in the way of who wants another one."""

    detector: DetectorClient
    room: WaitingRoom
    seats: asyncio.Semaphore


class Preprocessor:
    """Decodes a picture straight into a shared-memory slot, asks the Detector about it, and maps the boxes back."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, detectors: dict[str, DeploymentHandle], args: AppArgs
    ) -> None:
        """``detectors``: of each model, by its name."""
        cv2.setNumThreads(1)  # one picture a thread; the threads are ours
        preprocessed(
            encode_jpeg(np.zeros((8, 8, 3), np.uint8)), 64, 32
        )  # loads the decoders' libraries before a client waits
        slots = args.preprocessor.slots
        self._lanes = {
            model: _Lane(
                DetectorClient(detector, slots=slots, traffic="interactive"),
                WaitingRoom(slots),
                asyncio.Semaphore(slots),
            )
            for model, detector in detectors.items()
        }
        # As many threads as full-size pictures may be in memory at once.
        self._decoders = ThreadPoolExecutor(args.preprocessor.decode_threads or max(1, cores() // 4), "decode")
        self._max_pixels = args.limits.max_megapixels * 1_000_000
        self._telemetry = Telemetry(RayInstrument)
        self._quarantine = Quarantine()
        self._decoding_since_s: dict[int, float] = {}  # by thread
        await self._lanes[DEFAULT_MODEL].detector.connect()  # the others may be asleep
        max_calls = args.preprocessor.max_calls * len(self._lanes)
        methods: dict[str, Method] = {"model": self.model, "detect": self.detect}
        self._server = await listen(methods, max_calls=max_calls, limit="preprocessor.slots")

    @refusals_as_values
    async def model(self, name: str) -> ModelInfo:
        """The model of that name, as a Detector says now."""
        return await self._lane(name).detector.fetch_model()

    async def check_health(self) -> None:
        """Serve asks every second. A decoder that hangs keeps its slot and its thread: the replica ends with it."""
        oldest_s = time.monotonic() - min(self._decoding_since_s.values(), default=time.monotonic())
        if oldest_s > _DECODER_WEDGED_AFTER_S:
            logger.critical("a decoder has been busy with one picture for %.0f s: this replica ends", oldest_s)
            os.kill(os.getpid(), signal.SIGKILL)

    @refusals_as_values
    async def detect(
        self,
        data: bytes,
        query: DetectQuery,
        annotate: bool,
        time_left_s: float,
        tenant: str = "",
        under_suspicion: bool = False,
    ) -> Answer:
        """One encoded picture's answer, in its own pixels. ``under_suspicion``: a Preprocessor died while it had it."""
        came_at_s = time.monotonic()
        expires_at_s = came_at_s + time_left_s
        lane = self._lane(query.model)
        with lane.room.enter(tenant):
            async with lane.seats:
                waited_s = time.monotonic() - came_at_s
                while True:
                    try:
                        answer = await self._detect(
                            lane.detector, data, query, annotate, expires_at_s, tenant, under_suspicion
                        )
                        break
                    except ModelChanged:  # a roll-out, under the picture: again, for the model that serves now
                        if time.monotonic() + _MODEL_CHANGED_PAUSE_S > expires_at_s:
                            raise
                        await asyncio.sleep(_MODEL_CHANGED_PAUSE_S)
        answer.timing_s["queue"] += waited_s
        self._telemetry.record(STAGE_MS, answer.timing_s["decode"] * 1e3, stage="decode")
        return answer

    def _lane(self, model: str) -> _Lane:
        if model not in self._lanes:  # under a roll-out that adds or removes it
            raise Unavailable(f"there is no model {model!r} here now")
        return self._lanes[model]

    async def _detect(
        self,
        detector: DetectorClient,
        data: bytes,
        query: DetectQuery,
        annotate: bool,
        expires_at_s: float,
        tenant: str,
        under_suspicion: bool,
    ) -> Answer:
        model = await detector.model(expires_at_s - time.monotonic())
        options = query.to_options(model)
        with detector.pool.lease() as slot:
            if under_suspicion:
                size_px = slot.ref.size_px
                box, decode_s, frame = await self._quarantine.run(preprocessed, data, self._max_pixels, size_px)
                slot.pixels[:] = frame
            else:
                box, decode_s = await self._in_thread(lambda: preprocess(data, self._max_pixels, slot.pixels))
            # Cancelled here, the slot goes to another picture while the engine may still read it: what it then makes
            # of it is answered to nobody.
            answer = await detector.detect(
                slot, box, model, options, time_left_s=expires_at_s - time.monotonic(), tenant=tenant
            )
        answer.timing_s["decode"] = decode_s
        if not annotate:
            return answer
        picture = data, self._max_pixels, answer.detections, answer.labels
        if under_suspicion:
            return replace(answer, annotated=await self._quarantine.run(annotated, *picture))
        return replace(answer, annotated=await self._in_thread(lambda: annotated(*picture)))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """The work's result. When cancelled, waits for work that has begun: it may still write into our slot."""
        job = self._decoders.submit(self._watched, work)
        done = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            while not job.cancel() and not job.done():
                try:
                    await asyncio.wait([done])
                except asyncio.CancelledError:
                    pass  # cancelled once more; the work goes on all the same
            raise

    def _watched(self, work: Callable[[], T]) -> T:
        thread = threading.get_ident()
        self._decoding_since_s[thread] = time.monotonic()
        try:
            return work()
        finally:
            del self._decoding_since_s[thread]

    async def __del__(self) -> None:
        try:
            await close(self._server)
        finally:
            for lane in self._lanes.values():
                lane.detector.close()
            await self._quarantine.close()
            self._decoders.shutdown(wait=False)
