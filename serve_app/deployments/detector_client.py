"""The client with which Preprocessors, stream workers and JobRunners call the Detector."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ray.serve.handle import DeploymentHandle

from serve_app.deployments.handles import Replicas
from serve_app.deployments.stubs import DetectorStub
from serve_app.errors import (
    ModelChanged,
    PoisonPicture,
    ReplicaDied,
    ReplicaGone,
    ServeAppError,
    SlotElsewhere,
    StartError,
    Unavailable,
)
from serve_app.images.map_back import to_picture
from serve_app.ipc.frame_pool import FramePool, Slot
from serve_app.overload.retries import Retries
from serve_app.types import (
    Answer,
    DetectOptions,
    DetectorState,
    DetectReply,
    DetectRequest,
    FrameBytes,
    InputShape,
    Letterbox,
    ModelInfo,
    Pixels,
    Traffic,
)

# A frame is refused when this many Detectors have died while they processed nothing else. A Detector may also die for
# another reason at that moment. A client can send its image again, but an item of a job would fail.
_MAX_LONE_DEATHS: dict[Traffic, int] = {"interactive": 1, "stream": 1, "job": 2}
_CONNECT_TIMEOUT_S = 30.0
_CONNECT_INTERVAL_S = 0.2


class Observer(Protocol):
    """What is called with each answered image: see ``drift.reporter.Reporter.observe``."""

    def __call__(
        self, model: ModelInfo, traffic: Traffic, tenant: str, frame: Pixels, fitted: Letterbox, answer: Answer
    ) -> None: ...


class DetectorClient:
    """A client of one model's Detector replicas. It owns the slots for frames, and retries failed calls.

    A Detector on this node receives only a reference to a frame's slot. A Detector on another node receives the pixels.
    The arguments ``traffic`` and ``tenant`` identify the sender of the frames.

    When a Detector dies, any frame in its engine may have caused the crash. Each of these frames is retried in a batch
    of its own, and is refused if the Detector that runs this batch dies too (for jobs, if two such Detectors die).
    Frames that were still in the queue are retried normally.
    """

    def __init__(
        self,
        handle: DeploymentHandle,
        *,
        slots: int,
        traffic: Traffic,
        tenant: str = "",
        observe: Observer | None = None,
        **init: Any,
    ) -> None:
        self._replicas = Replicas(handle, **init)
        self._retries = Retries(in_flight=slots)
        self._slots = slots
        self._traffic: Traffic = traffic
        self._tenant = tenant
        self._observe = observe
        self._model: ModelInfo | None = None
        self._pool: FramePool | None = None
        self._pool_change = asyncio.Lock()

    async def fetch_state(self) -> DetectorState:
        """Ask a replica for its state, and return that state, which includes the served model.

        Raise Unavailable if no replica answers, or SharedMemoryError if there is no memory for the slots.
        """
        state = await self._replicas.call(DetectorStub.state)
        async with self._pool_change:
            if self._pool is None or self._pool.shape != state.model.input_shape:
                pool = await asyncio.to_thread(FramePool, self._slots, state.model.input_shape)
                self.close()
                self._pool = pool
        self._model = state.model
        return state

    async def connect(self) -> ModelInfo:
        """Wait until a replica answers, and return its model. Raise StartError if there is no memory for the slots."""
        while True:
            try:
                return (await asyncio.wait_for(self.fetch_state(), _CONNECT_TIMEOUT_S)).model
            except StartError:
                raise
            except (ServeAppError, TimeoutError):
                await asyncio.sleep(_CONNECT_INTERVAL_S)

    async def model(self, time_left_s: float) -> ModelInfo:
        """Return the stored model, or ask a replica for its model if none is stored.

        Raise ServeAppError if no replica answers in time.
        """
        if self._model is not None:
            return self._model
        try:
            return (await self._retries.run(lambda _: self.fetch_state(), time_left_s)).model
        except StartError as exc:  # there is no shared memory for the new model's slots
            raise Unavailable(exc.detail) from exc

    def forget_model(self) -> None:
        """Discard the fetched model, so that the next call of ``model`` asks a replica for its model."""
        self._model = None

    @property
    def pool(self) -> FramePool:
        """The pool of slots for the model's largest input. Raise Unavailable if no model has been fetched yet."""
        if self._pool is None:
            raise Unavailable("the detector's model is not known yet; retry later")
        return self._pool

    async def detect(
        self,
        slot: Slot,
        fitted: Letterbox,
        model: ModelInfo,
        options: DetectOptions,
        *,
        time_left_s: float,
        tenant: str = "",
        superseded: int = 0,
    ) -> Answer:
        """Return the detections in the slot's frame, in pixels of the original image.

        ``fitted`` describes how the original image was letterboxed into the frame. If ``tenant`` is given, it replaces
        the tenant of this DetectorClient for this frame. See ``DetectRequest`` for ``superseded``.

        Raise ServeAppError, for example PoisonPicture, if the frame is refused. If this method raises ModelChanged, the
        next call of ``model`` fetches the new model.
        """
        shape = fitted.input_shape
        request = DetectRequest(
            slot.ref(shape),
            options,
            time_left_s,
            model.version,
            self._traffic,
            tenant or self._tenant,
            superseded=superseded,
        )
        reply = await self._call(slot, request, model)
        answer = Answer(
            detections=to_picture(reply.detections.labelled(model.labels), fitted),
            width_px=fitted.width_px,
            height_px=fitted.height_px,
            model=model.name,
            batch_size=reply.batch_size,
            timing=reply.timing,
            input_shape=shape,
            keypoint_names=model.engine.keypoints,
        )
        if self._observe:  # while the caller still leases the slot
            self._observe(model, self._traffic, request.tenant, slot.frame(shape), fitted, answer)
        return answer

    async def infer(
        self, slot: Slot, shape: InputShape, model: ModelInfo, *, time_left_s: float, tenant: str
    ) -> NDArray[np.float32]:
        """Return the tensor of the slot's frame: see ``models.tasks.tensors``. Raise the errors of ``detect``."""
        version, traffic = model.version, self._traffic
        request = DetectRequest(
            slot.ref(shape), model.defaults, time_left_s, version, traffic, tenant, wants_tensor=True
        )
        reply = await self._call(slot, request, model)
        assert reply.tensor is not None
        return reply.tensor

    async def _call(self, slot: Slot, request: DetectRequest, model: ModelInfo) -> DetectReply:
        """Call a Detector, and retry as the class describes. Raise the errors of ``detect``."""
        shape, lone_deaths = request.frame.input_shape, 0

        async def attempt(left_s: float) -> DetectReply:
            nonlocal request, lone_deaths
            request = replace(request, time_left_s=left_s)
            slot.clear_flag()
            try:
                return await self._replicas.call(DetectorStub.detect, request)
            except SlotElsewhere:
                in_bytes = replace(request, frame=FrameBytes(slot.frame(shape).tobytes(), shape))
                return await self._replicas.call(DetectorStub.detect, in_bytes)
            except ReplicaGone as exc:
                if not slot.was_in_engine:
                    # The frame was still in the queue, so it did not cause the crash.
                    raise ReplicaGone(exc.detail) from exc
                lone_deaths += request.isolated
                if lone_deaths == _MAX_LONE_DEATHS[self._traffic]:
                    raise PoisonPicture(
                        f"{1 + lone_deaths} detectors crashed on this image, the last while processing nothing else"
                    ) from exc
                request = replace(request, isolated=True)
                raise ReplicaDied(exc.detail) from exc

        try:
            return await self._retries.run(attempt, request.time_left_s)
        except ModelChanged:
            if self._model is model:  # if not, another call has already fetched the new model
                self._model = None
            raise

    def close(self) -> None:
        """Free the shared memory of the slots."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
