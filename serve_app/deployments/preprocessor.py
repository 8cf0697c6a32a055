"""The Preprocessor: the deployment that decodes an image into a slot and calls the Detector."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from serve_app.overload.limits import AdmissionLimit
from serve_app.telemetry.metrics import STAGE_MS, Telemetry
from serve_app.types import DEFAULT_MODEL, Answer, DetectorState, InputShape, Letterbox, PictureRequest, Pixels

logger = logging.getLogger(__name__)

_DECODE_TIMEOUT_S = 20.0  # for one image; decoding the largest allowed image takes 2 s
_IDLE_AFTER_S = 5.0  # freed memory is returned to the system if no image was decoded for this time
_RETRY_INTERVAL_S = 0.05
T = TypeVar("T")


@dataclass(frozen=True)
class _ModelQueue:
    """The Detectors of one model, and the queue of images for them. Other models' images wait in their own queues."""

    detector: DetectorClient
    admission_limit: AdmissionLimit
    slots: asyncio.Semaphore


@serves(PreprocessorStub)
class Preprocessor:
    """A replica that decodes images into shared-memory slots, calls the Detector, and maps boxes to image pixels."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, detectors: dict[str, DeploymentHandle], args: AppArgs
    ) -> None:
        """Connect to the Detectors. ``detectors`` maps each model's name to the handle of its Detector deployment."""
        log_as_serve()
        cv2.setNumThreads(1)  # our own threads decode several images in parallel
        # Decode an image now, so that the first request does not wait until the decoders' libraries are loaded.
        prepare_new(encode_jpeg(np.zeros((8, 8, 3), np.uint8)), 64, InputShape.square(32))
        slots = args.preprocessor.slots
        self._queues = {
            model: _ModelQueue(
                DetectorClient(detector, slots=slots, traffic="interactive"),
                AdmissionLimit(slots),
                asyncio.Semaphore(slots),
            )
            for model, detector in detectors.items()
        }
        # Each thread holds one full-size image, so the number of threads limits the memory for images.
        self._decoders = ThreadPoolExecutor(args.preprocessor.decode_threads or max(1, cores() // 4), "decode")
        self._max_pixels = args.limits.max_pixels
        self._telemetry = Telemetry(RayInstrument)
        self._quarantine = Quarantine()
        self._decoding_started_at_s: dict[int, float] = {}  # by thread id
        self._idle_since_s = math.inf  # when the last image was decoded; infinity if there is no freed memory to return
        await self._queues[DEFAULT_MODEL].detector.connect()  # the other models may be scaled to zero
        max_calls = args.preprocessor.max_calls * len(self._queues)
        self._server = await listen(self, PreprocessorStub, max_calls=max_calls, limit="preprocessor.slots")

    async def state(self, model: str) -> DetectorState:
        """Return the state of a model's Detector: see ``PreprocessorStub.state``."""
        return await self._queue(model).detector.fetch_state()

    async def detect(self, request: PictureRequest) -> Answer:
        """Return the detections in an image: see ``PreprocessorStub.detect``."""
        received_at_s = time.monotonic()
        expires_at_s = received_at_s + request.time_left_s
        queue = self._queue(request.params.model)
        with queue.admission_limit.enter(request.tenant):
            async with queue.slots:
                waited_s = time.monotonic() - received_at_s
                while True:
                    try:
                        answer = await self._detect(queue.detector, request, expires_at_s)
                        break
                    except ModelChanged:  # during a roll-out; retry with the new model
                        if time.monotonic() + _RETRY_INTERVAL_S > expires_at_s:
                            raise
                        await asyncio.sleep(_RETRY_INTERVAL_S)
        timing = answer.timing
        self._telemetry.record(STAGE_MS, timing.decode_s * 1e3, stage="decode")
        return replace(answer, timing=replace(timing, queue_s=timing.queue_s + waited_s))

    async def check_health(self) -> None:
        """Kill this replica if a decoder hangs, and give freed memory back to the system when the replica is idle.

        Serve calls this method every second. A hung decoder would occupy a slot and a thread forever.
        """
        longest_s = time.monotonic() - min(self._decoding_started_at_s.values(), default=time.monotonic())
        if longest_s > _DECODE_TIMEOUT_S:
            logger.critical("a decoder hangs: it has decoded one image for %.0f s; killing this replica", longest_s)
            os.kill(os.getpid(), signal.SIGKILL)
        if not self._decoding_started_at_s and time.monotonic() - self._idle_since_s > _IDLE_AFTER_S:
            self._idle_since_s = math.inf
            await asyncio.to_thread(_return_freed_memory)

    def _queue(self, model: str) -> _ModelQueue:
        if model not in self._queues:  # while a roll-out adds or removes the model
            raise Unavailable(f"model {model!r} is not currently deployed")
        return self._queues[model]

    async def _detect(self, detector: DetectorClient, request: PictureRequest, expires_at_s: float) -> Answer:
        model = await detector.model(expires_at_s - time.monotonic())
        options = request.params.to_options(model)
        with detector.pool.lease() as slot:
            fitted, decode_s = await self._prepare(request, slot.pixels)
            # If this call is cancelled, another image may get the slot while the engine still reads from the slot. This
            # does no harm, because the engine's result for a cancelled call is discarded.
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
        """Run ``work`` in a decoding thread and return its result.

        If the call is cancelled after ``work`` has started, wait until ``work`` ends, because ``work`` may still write
        to the slot.
        """
        job = self._decoders.submit(self._timed, work)
        done = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            while not job.cancel() and not job.done():
                try:
                    await asyncio.wait([done])
                except asyncio.CancelledError:
                    pass  # a second cancellation cannot stop the thread either
            raise
        finally:
            # If ``work`` has failed, these futures hold an exception that refers to this frame, and so to the image.
            # Without this cycle, the image's memory is freed at once and not at the next garbage collection.
            del job, done

    def _timed(self, work: Callable[[], T]) -> T:
        thread = threading.get_ident()
        self._decoding_started_at_s[thread] = time.monotonic()
        try:
            return work()
        finally:
            del self._decoding_started_at_s[thread]
            self._idle_since_s = time.monotonic()

    async def __del__(self) -> None:
        try:
            await close(self._server)
        finally:
            for queue in self._queues.values():
                queue.detector.close()
            await self._quarantine.close()
            self._decoders.shutdown(wait=False)


def _return_freed_memory() -> None:
    """Return the heap's free memory to the system: see malloc_trim(3).

    Without this call, hostile images left up to 180 MiB of free memory in the heap.
    """
    with suppress(AttributeError):  # only glibc has this function
        ctypes.CDLL(None).malloc_trim(0)
