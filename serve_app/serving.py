"""The border with Ray Serve: calls over handles, Ray's errors, Ray's metrics. Shells only; nothing is computed here."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve import metrics
from ray.serve.context import _get_global_client
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ReplicaState

from serve_app.config import DEFAULT_MODEL
from serve_app.errors import (
    ModelChanged,
    Overloaded,
    PoisonPicture,
    ReplicaDied,
    ReplicaGone,
    ServeAppError,
    SlotElsewhere,
    StartError,
    Unavailable,
)
from serve_app.frames import FramePool, Slot
from serve_app.letterbox import to_picture
from serve_app.local_calls import CallServer, LocalReplicas, Method
from serve_app.retries import Retries
from serve_app.telemetry import Metric
from serve_app.types import Answer, DetectOptions, DetectReply, DetectRequest, Letterbox, ModelInfo, Traffic

_CONNECT_TIMEOUT_S = 30.0
_CONNECT_PAUSE_S = 0.2

P = ParamSpec("P")
T = TypeVar("T")


def refusals_as_values(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T | ServeAppError]]:
    """A deployment's method that returns an expected error instead of raising it; ``Replicas`` raises it again.

    Raised, it would come out as a RayTaskError with the remote traceback, and be logged as a fault of the replica.
    """

    @functools.wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T | ServeAppError:
        try:
            return await method(*args, **kwargs)
        except ServeAppError as exc:
            return exc

    return wrapper


def detector_name(model: str) -> str:
    """Of the deployment that serves a model."""
    return "Detector" if model == DEFAULT_MODEL else f"Detector-{model}"


def running_replicas(application: str) -> dict[str, int]:
    """How many replicas of each deployment run. Blocks. Raises Unavailable."""
    try:
        status = serve.status().applications.get(application)
    except RayError as exc:
        raise Unavailable("Serve's controller does not answer") from exc
    deployments = status.deployments if status else {}
    return {name: one.replica_states.get(ReplicaState.RUNNING, 0) for name, one in deployments.items()}


def service_name(application: str, deployment: str) -> str:
    """Under which a deployment's replicas on this node are found: another cluster's have another name."""
    node = ray.get_runtime_context().get_node_id()
    return hashlib.sha256(f"{node} {application} {deployment}".encode()).hexdigest()[:16]


async def http_host() -> str | None:
    """The address on which Serve listens for HTTP: with HAProxy every one, unless the config says otherwise."""
    host: str | None = (await asyncio.to_thread(_get_global_client)).http_config.host
    return host


async def listen(methods: Mapping[str, Method], *, max_calls: int) -> CallServer:
    """Serves this replica's methods to callers on its node, until it is closed."""
    context = serve.get_replica_context()
    server = CallServer(methods, max_calls=max_calls)
    await server.start(service_name(context.app_name, context.deployment))
    return server


async def close(server: CallServer) -> None:
    """Stop listening; what was accepted is answered.

    An application that is deleted ends all its replicas at once, and Serve does not know of these calls: then whoever
    is called stays until its callers have ended. In a roll-out they go elsewhere.
    """
    if await asyncio.to_thread(_application_ends):
        await server.wait_for_callers()
    await server.close()


def _application_ends() -> bool:
    context = serve.get_replica_context()
    try:
        status = serve.status().applications.get(context.app_name)
    except Exception:  # the controller may have ended before us
        return False
    return status is None or status.status == ApplicationStatus.DELETING


class Replicas:
    """A deployment, as its callers see it: a replica on this node is called directly, others over Serve's handle."""

    def __init__(self, handle: DeploymentHandle, **init: Any) -> None:
        handle._init(_prefer_local_routing=True, **init)
        self._handle = handle
        self._local = LocalReplicas(service_name(handle.app_name, handle.deployment_name))

    async def call(self, method: str, *args: Any) -> Any:
        """The result of a deployment's method. Raises ServeAppError; what else comes out is a bug.

        ReplicaGone and ReplicaDied are worth another call: see ``Retries``.
        """
        try:
            result = await self._local.call(method, *args)
        except ReplicaDied:
            raise
        except ReplicaGone:
            result = await self._call_handle(method, args)
        if isinstance(result, ServeAppError):
            raise result
        return result

    async def _call_handle(self, method: str, args: tuple[Any, ...]) -> Any:
        try:
            return await getattr(self._handle, method).remote(*args)
        except BackPressureError as exc:
            raise Overloaded("the service is at its limit") from exc
        except RayActorError as exc:  # it died, or did before, and Serve has not noticed yet
            raise ReplicaGone("a replica died or is not there; try again") from exc
        except DeploymentUnavailableError as exc:
            raise Unavailable("no replica can be started") from exc


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

    async def fetch_model(self) -> ModelInfo:
        """The model that serves now, asked of a replica. Raises Unavailable, SharedMemoryError."""
        model: ModelInfo = await self._replicas.call("model")
        async with self._pool_change:
            if self._pool is None or self._pool.size_px != model.size_px:
                pool = await asyncio.to_thread(FramePool, self._slots, model.size_px)
                self.close()
                self._pool = pool
        self._model = model
        return model

    async def connect(self) -> ModelInfo:
        """The model, as soon as a replica tells it. Raises StartError where waiting cannot help."""
        while True:
            try:
                return await asyncio.wait_for(self.fetch_model(), _CONNECT_TIMEOUT_S)
            except StartError:
                raise
            except (ServeAppError, TimeoutError):
                await asyncio.sleep(_CONNECT_PAUSE_S)

    async def model(self, time_left_s: float) -> ModelInfo:
        """The model that served when last asked. Raises ServeAppError."""
        if self._model is not None:
            return self._model
        try:
            return await self._retries.run(lambda _: self.fetch_model(), time_left_s)
        except StartError as exc:  # no memory for the slots of another model
            raise Unavailable(exc.detail) from exc

    def forget_model(self) -> None:
        """Have ``model`` ask anew."""
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
        box: Letterbox,
        model: ModelInfo,
        options: DetectOptions,
        *,
        time_left_s: float,
        tenant: str = "",
        given_up: int = 0,
    ) -> Answer:
        """What the model finds in the slot's frame, in the pixels of the picture it was letterboxed from.

        ``tenant`` says whose this frame is, where not all are one's; of ``given_up`` see ``DetectRequest``. Raises
        ServeAppError, for example PoisonPicture; after ModelChanged, ``model`` asks anew.
        """
        request = DetectRequest(
            slot.ref, options, time_left_s, model.version, self._traffic, tenant or self._tenant, given_up=given_up
        )

        async def attempt(left_s: float) -> DetectReply:
            nonlocal request
            request = replace(request, time_left_s=left_s)
            slot.clear_mark()
            try:
                reply: DetectReply = await self._replicas.call("detect", request)
            except SlotElsewhere:
                reply = await self._replicas.call("detect", replace(request, frame=slot.pixels.tobytes()))
            except ReplicaGone as exc:
                if not slot.is_marked:
                    raise ReplicaGone(exc.detail) from exc  # it only waited
                if request.isolated:
                    raise PoisonPicture(
                        "two detectors died of this picture, one of them while it had no other"
                    ) from exc
                request = replace(request, isolated=True)
                raise ReplicaDied(exc.detail) from exc
            return reply

        try:
            reply = await self._retries.run(attempt, time_left_s)
        except ModelChanged:
            if self._model is model:  # else another frame has heard of it before
                self._model = None
            raise
        return Answer(
            detections=to_picture(reply.detections, box),
            labels=tuple(model.labels[class_id] for class_id in reply.detections.class_id),
            width_px=box.width_px,
            height_px=box.height_px,
            model=model.name,
            batch_size=reply.batch_size,
            timing_s={"queue": reply.queue_s, "inference": reply.inference_s, "postprocess": reply.postprocess_s},
        )

    def close(self) -> None:
        """Give the shared memory back."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class RayInstrument:
    """A metric of ours as one of Ray's."""

    def __init__(self, metric: Metric) -> None:
        if metric.kind == "counter":
            self._record = metrics.Counter(metric.name, metric.description, metric.tags).inc
        elif metric.kind == "gauge":
            self._record = metrics.Gauge(metric.name, metric.description, metric.tags).set
        else:
            histogram = metrics.Histogram(metric.name, metric.description, list(metric.buckets), metric.tags)
            self._record = histogram.observe

    def record(self, value: float, tags: dict[str, str]) -> None:
        """See ``telemetry.Instrument``."""
        self._record(value, tags)
