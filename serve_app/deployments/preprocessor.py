"""The Preprocessor: the deployment that decodes a picture into a slot and asks the Detector about it."""

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
from serve_app.deployments.handles import close, listen, serves
from serve_app.deployments.ray_metrics import RayInstrument
from serve_app.deployments.replica_logs import log_as_serve
from serve_app.deployments.stubs import PreprocessorStub
from serve_app.errors import ModelChanged, Unavailable
from serve_app.images.drawing import encode_jpeg
from serve_app.images.prepare import annotate, prepare, prepare_new
from serve_app.ipc.quarantine import Quarantine
from serve_app.overload.limits import WaitingRoom
from serve_app.telemetry.metrics import STAGE_MS, Telemetry
from serve_app.types import DEFAULT_MODEL, Answer, DetectorState, InputShape, Letterbox, PictureRequest, Pixels

logger = logging.getLogger(__name__)

_DECODER_WEDGED_AFTER_S = 20.0  # of work on one picture: the largest take two
_MODEL_CHANGED_PAUSE_S = 0.05
T = TypeVar("T")


@dataclass(frozen=True)
class _ModelQueue:
    """The Detectors of one model, and the pictures that wait for them: they delay no other model's pictures."""

    detector: DetectorClient
    waiting_room: WaitingRoom
    slots: asyncio.Semaphore


@serves(PreprocessorStub)
class Preprocessor:
    """Decodes a picture straight into a shared-memory slot, asks the Detector about it, and maps the boxes back."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, detectors: dict[str, DeploymentHandle], args: AppArgs
    ) -> None:
        """``detectors``: those of each model, by the model's name."""
        log_as_serve()
        cv2.setNumThreads(1)  # one picture a thread; the threads are ours
        # This loads the decoders' libraries before a client waits for them.
        prepare_new(encode_jpeg(np.zeros((8, 8, 3), np.uint8)), 64, InputShape.square(32))
        slots = args.preprocessor.slots
        self._queues = {
            model: _ModelQueue(
                DetectorClient(detector, slots=slots, traffic="interactive"),
                WaitingRoom(slots),
                asyncio.Semaphore(slots),
            )
            for model, detector in detectors.items()
        }
        # As many threads as full-size pictures may be in memory at once.
        self._decoders = ThreadPoolExecutor(args.preprocessor.decode_threads or max(1, cores() // 4), "decode")
        self._max_pixels = args.limits.max_pixels
        self._telemetry = Telemetry(RayInstrument)
        self._quarantine = Quarantine()
        self._decoding_since_s: dict[int, float] = {}  # by thread
        await self._queues[DEFAULT_MODEL].detector.connect()  # the other models may be scaled to zero
        max_calls = args.preprocessor.max_calls * len(self._queues)
        self._server = await listen(self, PreprocessorStub, max_calls=max_calls, limit="preprocessor.slots")

    async def state(self, model: str) -> DetectorState:
        """See ``PreprocessorStub``."""
        return await self._queue(model).detector.fetch_state()

    async def detect(self, request: PictureRequest) -> Answer:
        """See ``PreprocessorStub``."""
        came_at_s = time.monotonic()
        expires_at_s = came_at_s + request.time_left_s
        queue = self._queue(request.params.model)
        with queue.waiting_room.enter(request.tenant):
            async with queue.slots:
                waited_s = time.monotonic() - came_at_s
                while True:
                    try:
                        answer = await self._detect(queue.detector, request, expires_at_s)
                        break
                    except ModelChanged:  # a roll-out: try again with the model that serves now
                        if time.monotonic() + _MODEL_CHANGED_PAUSE_S > expires_at_s:
                            raise
                        await asyncio.sleep(_MODEL_CHANGED_PAUSE_S)
        timing = answer.timing
        self._telemetry.record(STAGE_MS, timing.decode_s * 1e3, stage="decode")
        return replace(answer, timing=replace(timing, queue_s=timing.queue_s + waited_s))

    async def check_health(self) -> None:
        """End this replica if a decoder hangs, which keeps its slot and its thread. Serve calls this every second."""
        oldest_s = time.monotonic() - min(self._decoding_since_s.values(), default=time.monotonic())
        if oldest_s > _DECODER_WEDGED_AFTER_S:
            logger.critical("a decoder has been busy with one picture for %.0f s: this replica ends", oldest_s)
            os.kill(os.getpid(), signal.SIGKILL)

    def _queue(self, model: str) -> _ModelQueue:
        if model not in self._queues:  # during a roll-out that adds or removes it
            raise Unavailable(f"model {model!r} is not currently deployed")
        return self._queues[model]

    async def _detect(self, detector: DetectorClient, request: PictureRequest, expires_at_s: float) -> Answer:
        model = await detector.model(expires_at_s - time.monotonic())
        options = request.params.to_options(model)
        with detector.pool.lease() as slot:
            fitted, decode_s = await self._prepare(request, slot.pixels)
            # If this is cancelled here, the slot goes to another picture while the engine may still read it. What the
            # engine then makes of it is answered to nobody.
            answer = await detector.detect(
                slot,
                fitted,
                model,
                options,
                time_left_s=expires_at_s - time.monotonic(),
                tenant=request.tenant,
            )
        annotated = await self._annotate(request, answer) if request.annotate else None
        return replace(answer, timing=replace(answer.timing, decode_s=decode_s), annotated=annotated)

    async def _prepare(self, request: PictureRequest, model_input: Pixels) -> tuple[Letterbox, float]:
        if not request.is_suspect:
            return await self._in_thread(lambda: prepare(request.data, self._max_pixels, model_input))
        shape = InputShape(*model_input.shape[:2])
        fitted, decode_s, frame = await self._quarantine.run(prepare_new, request.data, self._max_pixels, shape)
        model_input[:] = frame
        return fitted, decode_s

    async def _annotate(self, request: PictureRequest, answer: Answer) -> bytes:
        picture = request.data, self._max_pixels, answer.detections
        if request.is_suspect:
            return await self._quarantine.run(annotate, *picture)
        return await self._in_thread(lambda: annotate(*picture))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Return the work's result. When cancelled, wait for work that has begun: it may still write into our slot."""
        job = self._decoders.submit(self._watched, work)
        done = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            while not job.cancel() and not job.done():
                try:
                    await asyncio.wait([done])
                except asyncio.CancelledError:
                    pass  # cancelled once more; the work continues all the same
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
            for queue in self._queues.values():
                queue.detector.close()
            await self._quarantine.close()
            self._decoders.shutdown(wait=False)
