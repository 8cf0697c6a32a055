"""The Detector, as its callers see it: slots for frames, and answers about them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

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
    Letterbox,
    ModelInfo,
    Traffic,
)

_CONNECT_TIMEOUT_S = 30.0
_CONNECT_PAUSE_S = 0.2


class DetectorClient:
    """The Detector, as its callers see it: which model it serves, slots for frames, and answers about them.

    A frame goes by its slot's name where the Detector shares our memory and by its bytes where it does not. ``traffic``
    and ``tenant`` say whose frames they are.

    When a Detector dies, every frame that was in its engine is under suspicion: it is sent again isolated, and
    a frame that the next Detector dies of, too, is refused. Frames that only waited are sent again as they were.
    """

    def __init__(
        self, handle: DeploymentHandle, *, slots: int, traffic: Traffic, tenant: str = "", **init: Any
    ) -> None:
        self._replicas = Replicas(handle, **init)
        self._retries = Retries(in_flight=slots)
        self._slots = slots
        self._traffic: Traffic = traffic
        self._tenant = tenant
        self._model: ModelInfo | None = None
        self._pool: FramePool | None = None
        self._pool_change = asyncio.Lock()

    async def fetch_state(self) -> DetectorState:
        """Return what is served now, asked of a replica. Raises Unavailable, SharedMemoryError."""
        state = await self._replicas.call(DetectorStub.state)
        async with self._pool_change:
            if self._pool is None or self._pool.shape != state.model.input_shape:
                pool = await asyncio.to_thread(FramePool, self._slots, state.model.input_shape)
                self.close()
                self._pool = pool
        self._model = state.model
        return state

    async def connect(self) -> ModelInfo:
        """The model, as soon as a replica tells it. Raises StartError where waiting cannot help."""
        while True:
            try:
                return (await asyncio.wait_for(self.fetch_state(), _CONNECT_TIMEOUT_S)).model
            except StartError:
                raise
            except (ServeAppError, TimeoutError):
                await asyncio.sleep(_CONNECT_PAUSE_S)

    async def model(self, time_left_s: float) -> ModelInfo:
        """The model that served when last asked. Raises ServeAppError."""
        if self._model is not None:
            return self._model
        try:
            return (await self._retries.run(lambda _: self.fetch_state(), time_left_s)).model
        except StartError as exc:  # no memory for the slots of another model
            raise Unavailable(exc.detail) from exc

    def forget_model(self) -> None:
        """Have ``model`` ask a replica the next time."""
        self._model = None

    @property
    def pool(self) -> FramePool:
        """Slots of the model's size, once ``model`` was asked."""
        if self._pool is None:
            raise Unavailable("the detector's model is not known yet")
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
        """What the model finds in the slot's frame, in the pixels of the picture it was letterboxed from.

        ``tenant`` says whose this frame is, where not all are one's; of ``superseded`` see ``DetectRequest``. Raises
        ServeAppError, for example PoisonPicture; after ModelChanged, ``model`` asks a replica.
        """
        request = DetectRequest(
            slot.ref, options, time_left_s, model.version, self._traffic, tenant or self._tenant, superseded=superseded
        )

        async def attempt(left_s: float) -> DetectReply:
            nonlocal request
            request = replace(request, time_left_s=left_s)
            slot.clear_flag()
            try:
                return await self._replicas.call(DetectorStub.detect, request)
            except SlotElsewhere:
                in_bytes = replace(request, frame=slot.pixels.tobytes())
                return await self._replicas.call(DetectorStub.detect, in_bytes)
            except ReplicaGone as exc:
                if not slot.was_in_engine:
                    raise ReplicaGone(exc.detail) from exc  # it only waited
                if request.isolated:
                    raise PoisonPicture(
                        "two detectors died of this picture, one of them while it had no other"
                    ) from exc
                request = replace(request, isolated=True)
                raise ReplicaDied(exc.detail) from exc

        try:
            reply = await self._retries.run(attempt, time_left_s)
        except ModelChanged:
            if self._model is model:  # else another frame has heard of it before
                self._model = None
            raise
        return Answer(
            detections=to_picture(reply.detections.labelled(model.labels), fitted),
            width_px=fitted.width_px,
            height_px=fitted.height_px,
            model=model.name,
            batch_size=reply.batch_size,
            timing=reply.timing,
        )

    def close(self) -> None:
        """Give the shared memory back."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
