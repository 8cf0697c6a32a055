"""Every Ray Serve shell of the graph: Ingress -> Preprocessor -> Detector. Ray outside, our plain parts inside."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from serve_app.config import DetectorArgs
from serve_app.deployments.autoscaling import BACKLOG_S, DEMAND
from serve_app.deployments.handles import close, listen, refusals_as_values
from serve_app.deployments.ray_metrics import RayInstrument
from serve_app.errors import ModelChanged, ServeAppError
from serve_app.inference.model_runner import Item, ServedModel
from serve_app.ipc.frame_pool import Mark, SlotReader
from serve_app.ipc.rpc import CallServer, Method
from serve_app.telemetry.metrics import (
    CROSSINGS,
    DROPS,
    MODEL_CHANGES,
    QUEUE_SIZE,
    Telemetry,
)
from serve_app.types import DetectReply, DetectRequest, ModelInfo, Pixels

logger = logging.getLogger(__name__)

_INTERNAL = "an internal error: see the log"
_FOLDERS = re.compile(r"""(?<!\w)/(?:[^/\n:;'"]+/)+""")  # whose names may have spaces


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
            max_calls = self._args.batcher.max_calls
            self._server = await listen(methods, max_calls=max_calls, limit="batcher.max_queue_size")
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
