"""The Preprocessor: the deployment that decodes an image into a slot and calls the Detector."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from ray.serve.handle import DeploymentHandle

from serve_app.collection.collector import Collector
from serve_app.config import AppArgs
from serve_app.deployments.detector_client import DetectorClient
from serve_app.deployments.drift_monitor import reporter_to, watch_drifting
from serve_app.deployments.handles import Replicas, close, listen, serves
from serve_app.deployments.ray_metrics import RayInstrument
from serve_app.deployments.replica_logs import log_as_serve
from serve_app.deployments.stubs import PreprocessorStub
from serve_app.errors import ModelChanged, TooLarge, Unavailable
from serve_app.images.drawing import encode_jpeg
from serve_app.images.outlines import with_outlines
from serve_app.images.prepare import annotate, prepare, prepare_new
from serve_app.images.threads import DecodeThreads
from serve_app.ipc.frame_pool import Slot
from serve_app.ipc.quarantine import Quarantine
from serve_app.overload.limits import AdmissionLimit
from serve_app.schemas.streams import SourceSpec
from serve_app.streams.source_frames import SourceFrames
from serve_app.telemetry.figures import Figures
from serve_app.telemetry.metrics import STAGE_MS, Telemetry
from serve_app.types import (
    DEFAULT_MODEL,
    Answer,
    DetectorState,
    InputShape,
    Letterbox,
    ModelInfo,
    PictureRequest,
    VideoRequest,
)
from serve_app.video.excerpts import read_excerpt

_RETRY_INTERVAL_S = 0.05
_COLLECTOR_TIMEOUT_S = 5.0
MAX_VIDEO_FRAMES = 300


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
        self, detectors: dict[str, DeploymentHandle], args: AppArgs, drift_monitor: DeploymentHandle
    ) -> None:
        """Connect to the Detectors. ``detectors`` maps each model's name to the handle of its Detector deployment."""
        log_as_serve()
        cv2.setNumThreads(1)  # our own threads decode several images in parallel
        # Decode an image now, so that the first request does not wait until the decoders' libraries are loaded.
        prepare_new(encode_jpeg(np.zeros((8, 8, 3), np.uint8)), 64, args.preprocessor.decode, [InputShape.square(32)])
        slots = args.preprocessor.slots
        monitor = Replicas(drift_monitor)
        self._reporter = reporter_to(monitor, args)
        self._queues = {
            model: _ModelQueue(
                DetectorClient(
                    detector, slots=slots, traffic="interactive", observe=partial(self._reporter.observe, model)
                ),
                AdmissionLimit(slots),
                asyncio.Semaphore(slots),
            )
            for model, detector in detectors.items()
        }
        self._decoders = DecodeThreads(args.preprocessor.decode_threads)
        self._max_pixels = args.limits.max_pixels
        self._decoding = args.preprocessor.decode
        self._telemetry = Telemetry(RayInstrument)
        self._quarantine = Quarantine()
        self._videos = Quarantine()
        self._source_frames = SourceFrames(args.streams, args.outbound.guard(), self._max_pixels)
        self._collector: Collector | None = None
        self._drifting: asyncio.Task[None] | None = None
        if args.collect.folder:
            self._collector = Collector(args.collect, max_pixels=self._max_pixels)
            self._drifting = asyncio.create_task(watch_drifting(monitor, self._collector.selection, "interactive"))
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

    async def detect_video(self, request: VideoRequest) -> list[Answer]:
        """Return the answers for the frames of a short video: see ``PreprocessorStub.detect_video``.

        A separate process decodes the video, a few frames at a time, so a hostile video does no harm. Each frame is
        then answered as an image.
        """
        expires_at_s = time.monotonic() + request.time_left_s
        answers: list[Answer] = []
        at_s, passed = -1.0, 0
        while at_s < math.inf:
            video = request.data, self._max_pixels, at_s, passed, request.stride
            excerpt = await self._videos.run(read_excerpt, *video)
            if len(answers) + len(excerpt.frames) > MAX_VIDEO_FRAMES:
                raise TooLarge(
                    f"video_frames: the video has more than {MAX_VIDEO_FRAMES} frames, which is the limit; send a "
                    "shorter video, raise vid_stride, or use POST /jobs",
                    limit="video_frames",
                )
            left_s = expires_at_s - time.monotonic()
            pictures = (PictureRequest(one, request.params, left_s, False, request.tenant) for one in excerpt.frames)
            answers += await asyncio.gather(*map(self.detect, pictures))
            at_s, passed = excerpt.read_to_s, excerpt.passed
        return answers

    async def source_frame(self, source: SourceSpec) -> bytes:
        """Return a frame of a source: see ``PreprocessorStub.source_frame``."""
        return await self._source_frames.read(source)

    async def figures(self) -> Figures:
        """Return what this replica has counted."""
        return self._telemetry.figures()

    async def check_health(self) -> None:
        """Kill this replica if a decoder hangs, and return freed memory. Serve calls this method every second."""
        await self._decoders.check()
        if self._collector is not None:
            self._telemetry.collected(self._collector.kept, self._collector.drops)

    def _queue(self, model: str) -> _ModelQueue:
        if model not in self._queues:  # while a roll-out adds or removes the model
            raise Unavailable(f"model {model!r} is not currently deployed")
        return self._queues[model]

    async def _detect(self, detector: DetectorClient, request: PictureRequest, expires_at_s: float) -> Answer:
        model = await detector.model(expires_at_s - time.monotonic())
        options = request.params.to_options(model)
        with detector.pool.lease() as slot:
            fitted, decode_s = await self._prepare(request, model, slot)
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
        # A suspect image is not kept, because the collector would decode it in this process.
        if self._collector is not None and not request.is_suspect:
            self._collector.offer(request.data, answer, model, options, request.tenant)
        annotated = await self._annotate(request, answer) if request.annotate else None
        found, size = answer.detections, (answer.width_px, answer.height_px)
        if found.masks is not None and not request.annotate:
            found = await self._decoders.run(lambda: with_outlines(answer.detections, *size, request.params.mask))
        return replace(
            answer,
            detections=replace(found, masks=None),  # the Ingress does not need the masks themselves
            timing=replace(answer.timing, decode_s=decode_s),
            annotated=annotated,
        )

    async def _prepare(self, request: PictureRequest, model: ModelInfo, slot: Slot) -> tuple[Letterbox, float]:
        picture = request.data, self._max_pixels, self._decoding, model.shapes
        if not request.is_suspect:
            return await self._decoders.run(lambda: prepare(*picture, slot.frame, model.fitting))
        fitted, decode_s, frame = await self._quarantine.run(prepare_new, *picture, model.fitting)
        slot.frame(fitted.input_shape)[:] = frame
        return fitted, decode_s

    async def _annotate(self, request: PictureRequest, answer: Answer) -> bytes:
        picture = request.data, self._max_pixels, answer.detections
        if request.is_suspect:
            return await self._quarantine.run(annotate, *picture)
        return await self._decoders.run(lambda: annotate(*picture))

    async def __del__(self) -> None:
        try:
            await close(self._server)
            await self._reporter.close()
            if self._drifting is not None:
                self._drifting.cancel()
        finally:
            for queue in self._queues.values():
                queue.detector.close()
            await self._quarantine.close()
            await self._videos.close()
            self._decoders.close()
            if self._collector is not None:
                await asyncio.to_thread(self._collector.close, _COLLECTOR_TIMEOUT_S)
