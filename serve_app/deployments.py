"""Every Ray Serve shell of the graph: Ingress -> Preprocessor -> Detector. Ray outside, our plain parts inside."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app import models
from serve_app.api import build_api
from serve_app.api.access import require_keys
from serve_app.batcher import Batcher
from serve_app.config import AppArgs, cores
from serve_app.drawing import encode_jpeg
from serve_app.errors import ModelChanged, Overloaded, ReplicaGone, ServeAppError, Unavailable
from serve_app.frames import Mark, SlotReader
from serve_app.local_calls import Method
from serve_app.postprocess import to_detections
from serve_app.preprocess import annotated, preprocess, preprocessed
from serve_app.quarantine import Quarantine
from serve_app.retries import Retries
from serve_app.scaling import BACKLOG_S, DEMAND
from serve_app.schemas import DetectQuery
from serve_app.serving import DetectorClient, RayInstrument, Replicas, close, http_host, listen, refusals_as_values
from serve_app.streams.client import StreamClient
from serve_app.telemetry import DROPS, KEYS_FILE_ERRORS, QUEUE_SIZE, REFUSALS, REQUESTS, STAGE_MS, Telemetry
from serve_app.throttle import Throttle, WaitingRoom
from serve_app.types import (
    Answer,
    DetectOptions,
    DetectReply,
    DetectRequest,
    ModelInfo,
    Pixels,
)

logger = logging.getLogger("ray.serve")

_READY_TIMEOUT_S = 5.0
_WEDGED_AFTER_S = 10.0  # in one batch; a slow engine has longer:
_WEDGED_AFTER_BATCHES = 20  # as long as so many took when it was warm
_DECODER_WEDGED_AFTER_S = 20.0  # in one picture: the largest take two
_MODEL_CHANGED_PAUSE_S = 0.05
T = TypeVar("T")


@dataclass(frozen=True)
class _Item:
    frame: Pixels
    mark: Mark
    options: DetectOptions


class Detector:
    """Owns the engine and the batcher. Its engine threads infer and postprocess; its loop never waits for them."""

    async def __init__(self, args: AppArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        self._telemetry = Telemetry(RayInstrument)
        self._reader = SlotReader()
        max_batch_size = args.batcher.max_batch_size
        self._engine = await asyncio.to_thread(
            models.load, args.model, has_gpu=bool(ray.get_gpu_ids()), max_batch_size=max_batch_size
        )
        self._threads = ThreadPoolExecutor(self._engine.concurrency, "engine")
        batch_size = max_batch_size if self._engine.takes_batches else 1
        batch_s = await self._warm_up(batch_size)
        self._wedged_after_s = max(_WEDGED_AFTER_S, _WEDGED_AFTER_BATCHES * batch_s)
        self._batcher = Batcher(
            self._infer,
            max_batch_size=batch_size,
            max_queue_size=args.batcher.max_queue_size,
            weights=args.batcher.weights(),
            concurrency=self._engine.concurrency,
            items_per_s=batch_size * self._engine.concurrency / batch_s,
        )
        self._model = _with_defaults(self._engine.info, DetectOptions(**args.detect.model_dump()))
        methods: dict[str, Method] = {"model": self.model, "capacity": self.capacity, "detect": self.detect}
        self._server = await listen(methods, max_calls=args.batcher.max_calls)

    async def model(self) -> ModelInfo:
        """The model, loaded and warm."""
        return self._model

    async def capacity(self) -> float:
        """Pictures a second that this replica can take, as it was measured."""
        return self._batcher.items_per_s

    async def check_health(self) -> None:
        """Serve asks every second. A replica whose engine hangs cannot drain: it ends, and its callers ask another."""
        in_engine_s = self._batcher.in_engine_s
        if in_engine_s > self._wedged_after_s:
            logger.critical("the engine has been busy with one batch for %.0f s: this replica ends", in_engine_s)
            os.kill(os.getpid(), signal.SIGKILL)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's autoscaler hears of this replica, and ``scaling`` decides upon."""
        return {DEMAND: self._batcher.take_demand(), BACKLOG_S: self._batcher.backlog_s}

    @refusals_as_values
    async def detect(self, request: DetectRequest) -> DetectReply:
        """What the model finds in one frame, in model-input pixels."""
        if request.model_version != self._model.version:
            raise ModelChanged("the model was changed; try again")
        item = _Item(*self._frame(request), request.options)
        try:
            batched = await self._batcher.submit(
                item,
                time_left_s=request.time_left_s,
                traffic=request.traffic,
                tenant=request.tenant,
                isolated=request.isolated,
                given_up=request.given_up,
            )
        except ServeAppError:
            self._report_queue()
            raise
        reply = replace(batched.result, queue_s=batched.queue_s, batch_size=batched.batch_size)
        self._telemetry.answered(reply, self._model.labels, request.traffic)
        return reply

    def _frame(self, request: DetectRequest) -> tuple[Pixels, Mark]:
        if not isinstance(request.frame, bytes):
            return self._reader.view(request.frame)
        size_px = self._engine.info.size_px
        return np.frombuffer(request.frame, np.uint8).reshape(size_px, size_px, 3), np.empty(1, np.uint8)

    async def _warm_up(self, batch_size: int) -> float:
        """Returns how many seconds as many batches as run at once then take."""
        size_px, concurrency = self._engine.info.size_px, self._engine.concurrency
        blank = np.zeros((size_px, size_px, 3), np.uint8)
        frames = [blank] * batch_size
        await self._in_thread(lambda: self._engine.infer(frames, alone=True))
        for _ in range(2):  # the second time it is warm
            began_s = time.monotonic()
            for_many = (self._in_thread(lambda: self._engine.infer(frames, alone=False)) for _ in range(concurrency))
            await asyncio.gather(*for_many)
        return time.monotonic() - began_s

    async def _infer(self, items: list[_Item]) -> list[DetectReply]:
        alone = self._batcher.load == 1
        replies = await self._in_thread(lambda: self._run_engine(items, alone=alone))
        self._telemetry.inferred(replies)
        self._report_queue()
        return replies

    def _run_engine(self, items: list[_Item], *, alone: bool) -> list[DetectReply]:
        started_s = time.monotonic()
        for item in items:
            item.mark[0] = 1
        raw_outputs = self._engine.infer([item.frame for item in items], alone=alone)
        inferred_s = time.monotonic()
        replies = []
        for item, raw in zip(items, raw_outputs, strict=True):
            begun_s = time.monotonic()
            detections = to_detections(raw, item.options, end_to_end=self._model.end_to_end)
            replies.append(DetectReply(detections, 0.0, inferred_s - started_s, time.monotonic() - begun_s, 0))
            item.mark[0] = 0
        return replies

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _report_queue(self) -> None:
        for traffic, size in self._batcher.queue_sizes.items():
            self._telemetry.record(QUEUE_SIZE, size, traffic=traffic)
        for traffic, drops in self._batcher.drops.items():
            self._telemetry.record_totals(DROPS, drops, "reason", traffic=traffic)

    async def __del__(self) -> None:
        try:
            await close(self._server)
        finally:
            await self._batcher.close()
            self._threads.shutdown(wait=False)
            self._reader.close()


def _with_defaults(info: ModelInfo, defaults: DetectOptions) -> ModelInfo:
    """The model with its default thresholds, under a version that tells whether a frame was made for just this."""
    # Not the engine, nor the precision: on nodes of another kind a replica may have chosen another one.
    identity = f"{info.version} {info.size_px} {defaults}"
    return replace(info, defaults=defaults, version=hashlib.sha256(identity.encode()).hexdigest()[:12])


class Preprocessor:
    """Decodes a picture straight into a shared-memory slot, asks the Detector about it, and maps the boxes back."""

    async def __init__(self, detector: DeploymentHandle, args: AppArgs) -> None:  # type: ignore[misc]  # as above
        cv2.setNumThreads(1)  # one picture a thread; the threads are ours
        preprocessed(
            encode_jpeg(np.zeros((8, 8, 3), np.uint8)), 64, 32
        )  # loads the decoders' libraries before a client waits
        self._detector = DetectorClient(detector, slots=args.preprocessor.slots, traffic="interactive")
        # As many threads as full-size pictures may be in memory at once.
        self._decoders = ThreadPoolExecutor(args.preprocessor.decode_threads or max(1, cores() // 4), "decode")
        self._max_pixels = args.limits.max_megapixels * 1_000_000
        self._telemetry = Telemetry(RayInstrument)
        self._quarantine = Quarantine()
        self._decoding_since_s: dict[int, float] = {}  # by thread
        self._room = WaitingRoom(args.preprocessor.slots)
        self._seats = asyncio.Semaphore(args.preprocessor.slots)
        await self._detector.connect()
        self._server = await listen({"model": self.model, "detect": self.detect}, max_calls=args.preprocessor.max_calls)

    @refusals_as_values
    async def model(self) -> ModelInfo:
        """The model, as a Detector says now."""
        return await self._detector.fetch_model()

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
        with self._room.enter(tenant):
            async with self._seats:
                waited_s = time.monotonic() - came_at_s
                while True:
                    try:
                        answer = await self._detect(data, query, annotate, expires_at_s, tenant, under_suspicion)
                        break
                    except ModelChanged:  # a roll-out, under the picture: again, for the model that serves now
                        if time.monotonic() + _MODEL_CHANGED_PAUSE_S > expires_at_s:
                            raise
                        await asyncio.sleep(_MODEL_CHANGED_PAUSE_S)
        answer.timing_s["queue"] += waited_s
        self._telemetry.record(STAGE_MS, answer.timing_s["decode"] * 1e3, stage="decode")
        return answer

    async def _detect(
        self, data: bytes, query: DetectQuery, annotate: bool, expires_at_s: float, tenant: str, under_suspicion: bool
    ) -> Answer:
        model = await self._detector.model(expires_at_s - time.monotonic())
        options = query.to_options(model)
        with self._detector.pool.lease() as slot:
            if under_suspicion:
                size_px = slot.ref.size_px
                box, decode_s, frame = await self._quarantine.run(preprocessed, data, self._max_pixels, size_px)
                slot.pixels[:] = frame
            else:
                box, decode_s = await self._in_thread(lambda: preprocess(data, self._max_pixels, slot.pixels))
            # Cancelled here, the slot goes to another picture while the engine may still read it: what it then makes
            # of it is answered to nobody.
            answer = await self._detector.detect(
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
            self._detector.close()
            await self._quarantine.close()
            self._decoders.shutdown(wait=False)


@serve.ingress()
class Ingress:
    """FastAPI in front of the graph. Imports neither torch nor a model."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, preprocessor: DeploymentHandle, supervisor: DeploymentHandle, args: AppArgs
    ) -> None:
        require_keys(args.access, await http_host())
        self._preprocessor = Replicas(preprocessor)
        self._retries = Retries(in_flight=args.preprocessor.max_calls)
        self._throttles: defaultdict[str, Throttle] = defaultdict(Throttle)  # by tenant: by key, of those in the file
        self._streams = StreamClient(supervisor)
        self._args = args
        self._model: ModelInfo | None = None
        self._telemetry = Telemetry(RayInstrument)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self, self._streams, self._args)

    async def ready(self) -> ModelInfo:
        """See ``Pipeline``."""
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                self._model = await self._preprocessor.call("model")
        except Overloaded:
            if self._model is None:
                raise  # else it is warm and busy: what load balancers call ready
        except TimeoutError as exc:
            raise Unavailable("no detector answers") from exc
        assert self._model is not None
        return self._model

    async def detect(
        self, data: bytes, query: DetectQuery, *, annotate: bool, time_left_s: float, tenant: str
    ) -> Answer:
        """See ``Pipeline``."""
        under_suspicion = False

        async def attempt(left_s: float) -> Answer:
            nonlocal under_suspicion
            try:
                answer: Answer = await self._preprocessor.call(
                    "detect", data, query, annotate, left_s, tenant, under_suspicion
                )
            except ReplicaGone:  # over a handle nobody tells whether it died under the call, and perhaps of it
                under_suspicion = True
                raise
            return answer

        refused = False
        try:
            return await self._retries.run(attempt, time_left_s)
        except Overloaded:
            refused = True
            raise
        finally:
            self._throttles[tenant].observe(refused=refused)

    def admit(self, tenant: str) -> None:
        """See ``Pipeline``."""
        self._throttles[tenant].admit()

    def refused(self, error: ServeAppError) -> None:
        """See ``Pipeline``."""
        self._telemetry.record(REFUSALS, code=error.code)

    def asked(self, key: str, outcome: str) -> None:
        """See ``Pipeline``."""
        self._telemetry.record(REQUESTS, key=key, outcome=outcome)

    def keys_unreadable(self) -> None:
        """See ``Pipeline``."""
        self._telemetry.record(KEYS_FILE_ERRORS)
