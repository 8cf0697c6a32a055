"""The Detector: the deployment that owns an inference engine and its batcher."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from serve_app.config import DetectorArgs
from serve_app.deployments.autoscaling import figures
from serve_app.deployments.handles import close, listen, serves
from serve_app.deployments.ray_metrics import RayInstrument
from serve_app.deployments.replica_logs import log_as_serve
from serve_app.deployments.stubs import DetectorStub
from serve_app.errors import ModelChanged, ServeAppError
from serve_app.inference.model_runner import EngineInput, ModelRunner
from serve_app.inference.rollout import Outcome, Rollout
from serve_app.ipc.frame_pool import InEngineFlag, SlotReader
from serve_app.ipc.rpc import CallServer
from serve_app.telemetry.figures import Figures
from serve_app.telemetry.metrics import CROSSINGS, DROPS, MODEL_CHANGES, QUEUE_SIZE, Telemetry
from serve_app.types import DetectorState, DetectReply, DetectRequest, FrameBytes, Pixels

logger = logging.getLogger(__name__)

_EXIT_TIMEOUT_S = 10  # after this time, the kernel ends a drained process that is still running


@serves(DetectorStub)
class Detector:
    """A replica that serves one model, and can change to another model without downtime."""

    def __init__(self, args: DetectorArgs, job_scaling_share: float) -> None:
        """Serve a model. See ``JobArgs.scaling_share``."""
        log_as_serve()
        self._job_scaling_share = job_scaling_share
        self._max_calls = args.batcher.max_calls
        self._rollout = Rollout(args, self._load, self._count_change)
        self._reader = SlotReader()
        self._telemetry = Telemetry(RayInstrument)
        self._server: CallServer | None = None

    async def reconfigure(self, user_config: Any, rank: object) -> None:
        """Apply ``user_config``. Serve calls this method when the replica starts and when ``user_config`` changes.

        While this method runs, Serve does not send requests to the replica or check its health. The method therefore
        waits only until the first model is loaded; later models load in the background. Because the method has the
        parameter ``rank``, Serve calls it even if the config has no ``user_config``.
        """
        await self._rollout.configure(user_config)
        if self._server is None:
            self._server = await listen(self, DetectorStub, max_calls=self._max_calls, limit="batcher.max_queue_size")

    async def state(self) -> DetectorState:
        """Return the state of the served model: see ``DetectorStub.state``."""
        return self._rollout.state()

    async def figures(self) -> tuple[DetectorState, Figures]:
        """Return the state and the counts of this replica: see ``DetectorStub.figures``."""
        return self._rollout.state(), self._telemetry.figures()

    async def capacity(self) -> float:
        """Return the measured capacity in images/s: see ``DetectorStub.capacity``."""
        return self._rollout.runner.batcher.items_per_s

    async def detect(self, request: DetectRequest) -> DetectReply:
        """Return the detections in a model input: see ``DetectorStub.detect``."""
        runner = self._rollout.runner
        if request.model_version != runner.info.version:
            raise ModelChanged("the model was changed; retry the request")
        shape = request.frame.input_shape
        cost = runner.cost(shape)  # before the frame is read, because a wrong shape may exceed the slot
        frame, in_engine = self._frame(request)
        try:
            batched = await runner.batcher.submit(
                EngineInput(frame, in_engine, request.options),
                time_left_s=request.time_left_s,
                traffic=request.traffic,
                tenant=request.tenant,
                shape=shape,
                cost=cost,
                isolated=request.isolated,
                superseded=request.superseded,
            )
        except ServeAppError:
            self._report_queue()
            raise
        timing = replace(batched.result.timing, queue_s=batched.queue_s)
        reply = replace(batched.result, timing=timing, batch_size=batched.batch_size)
        self._telemetry.answered(reply, runner.info.labels, request.traffic)
        return reply

    async def check_health(self) -> None:
        """Kill this replica if its engine hangs. Serve calls this method every second.

        A replica with a hung engine cannot finish its requests. The callers retry them on another replica.
        """
        if self._rollout.is_hung:
            logger.critical("the engine hangs: it has been busy with one batch for too long; killing this replica")
            os.kill(os.getpid(), signal.SIGKILL)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the figures that the policy in ``autoscaling`` uses."""
        return figures(self._rollout.runner.batcher, self._job_scaling_share)

    async def _load(self, args: DetectorArgs) -> ModelRunner:
        return await ModelRunner.load(args, has_gpu=bool(ray.get_gpu_ids()), on_batch=self._observe)

    def _frame(self, request: DetectRequest) -> tuple[Pixels, InEngineFlag]:
        frame = request.frame
        if not isinstance(frame, FrameBytes):
            return self._reader.view(frame)
        self._telemetry.record(CROSSINGS, traffic=request.traffic)
        return np.frombuffer(frame.data, np.uint8).reshape(frame.input_shape.array), np.empty(1, np.uint8)

    def _observe(self, replies: list[DetectReply]) -> None:
        self._telemetry.inferred(replies)
        self._report_queue()

    def _report_queue(self) -> None:
        batcher = self._rollout.runner.batcher
        for traffic, size in batcher.queue_sizes.items():
            self._telemetry.record(QUEUE_SIZE, size, traffic=traffic)
        for traffic, drops in batcher.drops.items():
            self._telemetry.record_totals(DROPS, drops, "reason", traffic=traffic)

    def _count_change(self, outcome: Outcome) -> None:
        self._telemetry.record(MODEL_CHANGES, outcome=outcome)

    async def __del__(self) -> None:
        try:
            if self._server is not None:
                await close(self._server)
        finally:
            await self._rollout.close()
            self._reader.close()
            # An engine's threads may keep the process from exiting, and Serve would wait for the process indefinitely.
            signal.alarm(_EXIT_TIMEOUT_S)
