"""Every Ray Serve shell of the graph: Ingress -> Preprocessor -> Detector. Ray outside, our plain parts inside."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import cv2
import numpy as np
import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.api import build_api
from serve_app.api.access import require_keys
from serve_app.config import DEFAULT_MODEL, AppArgs, DetectorArgs, cores
from serve_app.drawing import encode_jpeg
from serve_app.errors import ModelChanged, Overloaded, ReplicaGone, ServeAppError, Unavailable
from serve_app.frames import Mark, SlotReader
from serve_app.local_calls import CallServer, Method
from serve_app.preprocess import annotated, preprocess, preprocessed
from serve_app.quarantine import Quarantine
from serve_app.retries import Retries
from serve_app.scaling import BACKLOG_S, DEMAND
from serve_app.schemas import DetectQuery, ModelStatus
from serve_app.served_model import Item, ServedModel
from serve_app.serving import (
    DetectorClient,
    RayInstrument,
    Replicas,
    close,
    detector_name,
    http_host,
    listen,
    refusals_as_values,
    running_replicas,
)
from serve_app.streams.client import StreamClient
from serve_app.telemetry import (
    CROSSINGS,
    DROPS,
    KEYS_FILE_ERRORS,
    MODEL_CHANGES,
    QUEUE_SIZE,
    REFUSALS,
    REQUESTS,
    STAGE_MS,
    Telemetry,
)
from serve_app.throttle import Throttle, WaitingRoom
from serve_app.types import (
    Answer,
    DetectReply,
    DetectRequest,
    ModelInfo,
    Pixels,
)

logger = logging.getLogger("ray.serve")

_READY_TIMEOUT_S = 5.0
_DECODER_WEDGED_AFTER_S = 20.0  # in one picture: the largest take two
_MODEL_CHANGED_PAUSE_S = 0.05
_INTERNAL = "an internal error: see the log"
_FOLDERS = re.compile(r"""(?<!\w)/(?:[^/\n:;'"]+/)+""")  # whose names may have spaces
T = TypeVar("T")


class Detector:
    """Serves one model, and changes to another one under way."""

    def __init__(self, args: DetectorArgs) -> None:
        self._args = args  # as it was deployed, and as it is set now:
        self._set_to = args
        self._wanted: Any = None  # the last user_config
        self._served: ServedModel | None = None
        self._change: asyncio.Task[None] | None = None
        self._refused_change = ""
        self._retiring: dict[ServedModel, asyncio.Task[None]] = {}
        self._reader = SlotReader()
        self._telemetry = Telemetry(RayInstrument)
        self._server: CallServer | None = None

    async def reconfigure(self, user_config: Any, rank: object) -> None:
        """Serve calls it at the start and when ``user_config`` changes; ``rank`` has it do so where there is none.

        Only the first model is waited for: Serve sends no request to a replica meanwhile, nor looks after its health.
        """
        if self._served is None:
            self._wanted = user_config
            await self._start(user_config)
            methods: dict[str, Method] = {"model": self.model, "capacity": self.capacity, "detect": self.detect}
            self._server = await listen(methods, max_calls=self._args.batcher.max_calls)
        elif user_config != self._wanted:
            self._wanted = user_config
            if self._change is not None:
                self._change.cancel()  # the newest counts
            self._change = asyncio.create_task(self._change_to(user_config))

    async def _start(self, user_config: Any) -> None:
        try:
            args = self._args.changed_by(user_config)
            self._served = await self._load(args)
        except Exception as exc:
            if not user_config:
                raise
            self._refuse(exc)  # as those did that were running then: one that dies has to have a successor
            args = self._args
            self._served = await self._load(args)
        self._set_to = args

    async def _change_to(self, user_config: Any) -> None:
        """What cannot be changed leaves everything as it was."""
        before = self._now
        try:
            args = self._args.changed_by(user_config)
            if args.has_engine_of(self._set_to):
                before.use(args.detect, args.batcher)
            else:
                self._served = await self._load(args)
                self._served.batcher.drops = before.batcher.drops  # the count goes on
                self._retiring[before] = asyncio.create_task(self._retire(before))
        except Exception as exc:
            self._refuse(exc)
        else:
            self._set_to, self._refused_change = args, ""
            self._telemetry.record(MODEL_CHANGES, outcome="made")

    async def _load(self, args: DetectorArgs) -> ServedModel:
        return await ServedModel.load(args, has_gpu=bool(ray.get_gpu_ids()), on_batch=self._observe)

    def _refuse(self, error: Exception) -> None:
        logger.error("a change is refused", exc_info=error)
        self._refused_change = _without_folders(str(error)) if isinstance(error, ServeAppError) else _INTERNAL
        self._telemetry.record(MODEL_CHANGES, outcome="refused")

    async def _retire(self, served: ServedModel) -> None:
        try:
            await served.drain()
        finally:
            del self._retiring[served]

    async def model(self) -> ModelInfo:
        """The model, loaded and warm."""
        is_changing = self._change is not None and not self._change.done()
        return replace(self._now.info, refused_change=self._refused_change, is_changing=is_changing)

    async def capacity(self) -> float:
        """Pictures a second that this replica can take, as it was measured."""
        return self._now.batcher.items_per_s

    async def check_health(self) -> None:
        """Serve asks every second. A replica whose engine hangs cannot drain: it ends, and its callers ask another."""
        if any(served.is_wedged for served in (self._now, *self._retiring)):
            logger.critical("the engine has been busy with one batch for too long: this replica ends")
            os.kill(os.getpid(), signal.SIGKILL)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's autoscaler hears of this replica, and ``scaling`` decides upon."""
        batcher = self._now.batcher
        return {DEMAND: batcher.take_demand(), BACKLOG_S: batcher.backlog_s}

    @refusals_as_values
    async def detect(self, request: DetectRequest) -> DetectReply:
        """What the model finds in one frame, in model-input pixels."""
        served = self._now
        if request.model_version != served.info.version:
            raise ModelChanged("the model was changed; try again")
        item = Item(*self._frame(request, served.info.size_px), request.options)
        try:
            batched = await served.batcher.submit(
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
        self._telemetry.answered(reply, served.info.labels, request.traffic)
        return reply

    @property
    def _now(self) -> ServedModel:
        assert self._served is not None  # Serve asks nothing of a replica before it was configured
        return self._served

    def _frame(self, request: DetectRequest, size_px: int) -> tuple[Pixels, Mark]:
        if not isinstance(request.frame, bytes):
            return self._reader.view(request.frame)
        self._telemetry.record(CROSSINGS, traffic=request.traffic)
        return np.frombuffer(request.frame, np.uint8).reshape(size_px, size_px, 3), np.empty(1, np.uint8)

    def _observe(self, replies: list[DetectReply]) -> None:
        self._telemetry.inferred(replies)
        self._report_queue()

    def _report_queue(self) -> None:
        batcher = self._now.batcher
        for traffic, size in batcher.queue_sizes.items():
            self._telemetry.record(QUEUE_SIZE, size, traffic=traffic)
        for traffic, drops in batcher.drops.items():
            self._telemetry.record_totals(DROPS, drops, "reason", traffic=traffic)

    async def __del__(self) -> None:
        try:
            if self._server is not None:
                await close(self._server)
        finally:
            if self._change is not None:
                self._change.cancel()
            for served in (self._served, *self._retiring):
                if served is not None:
                    await served.close()
            self._reader.close()


def _without_folders(text: str) -> str:
    """What anybody may read."""
    return _FOLDERS.sub("", text)


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
        self._server = await listen({"model": self.model, "detect": self.detect}, max_calls=max_calls)

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


@serve.ingress()
class Ingress:
    """FastAPI in front of the graph. Imports neither torch nor a model."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, preprocessor: DeploymentHandle, supervisor: DeploymentHandle, args: AppArgs
    ) -> None:
        require_keys(args.access, await http_host())
        self._preprocessor = Replicas(preprocessor)
        self._retries = Retries(in_flight=args.preprocessor.max_calls)
        # By tenant, which is by key, of those in the file; and by model.
        self._throttles: defaultdict[tuple[str, str], Throttle] = defaultdict(Throttle)
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
                self._model = await self._preprocessor.call("model", DEFAULT_MODEL)
        except Overloaded:
            if self._model is None:
                raise  # else it is warm and busy: what load balancers call ready
        except TimeoutError as exc:
            raise Unavailable("no detector answers") from exc
        assert self._model is not None
        return self._model

    async def models(self) -> list[ModelStatus]:
        """See ``Pipeline``."""
        running = await asyncio.to_thread(running_replicas, serve.get_replica_context().app_name)
        return await asyncio.gather(*(self._model_status(name, running) for name in self._args.detectors()))

    async def _model_status(self, name: str, running: dict[str, int]) -> ModelStatus:
        if not running.get(detector_name(name)):
            return ModelStatus(name=name, state="asleep")  # asked for, it would be woken
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                return ModelStatus.of(name, await self._preprocessor.call("model", name))
        except (ServeAppError, TimeoutError):
            return ModelStatus(name=name, state="unavailable")

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
            self._throttles[tenant, query.model].observe(refused=refused)

    def admit(self, tenant: str, model: str) -> None:
        """See ``Pipeline``."""
        self._throttles[tenant, model].admit()

    def refused(self, error: ServeAppError) -> None:
        """See ``Pipeline``."""
        self._telemetry.record(REFUSALS, code=error.code)

    def asked(self, key: str, outcome: str) -> None:
        """See ``Pipeline``."""
        self._telemetry.record(REQUESTS, key=key, outcome=outcome)

    def keys_unreadable(self) -> None:
        """See ``Pipeline``."""
        self._telemetry.record(KEYS_FILE_ERRORS)
