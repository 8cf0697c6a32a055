"""The border with Ray Serve: calls over handles, Ray's errors, Ray's metrics. Shells only; nothing is computed here."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from serve_app.errors import (
    Limit,
    Overloaded,
    ReplicaDied,
    ReplicaGone,
    ServeAppError,
    Unavailable,
)
from serve_app.ipc.rpc import CallServer, LocalReplicas, Method
from serve_app.types import (
    DEFAULT_MODEL,
)

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


def service_name(application: str, deployment: str) -> str:
    """Under which a deployment's replicas on this node are found: another cluster's have another name."""
    node = ray.get_runtime_context().get_node_id()
    return hashlib.sha256(f"{node} {application} {deployment}".encode()).hexdigest()[:16]


async def listen(methods: Mapping[str, Method], *, max_calls: int, limit: Limit) -> CallServer:
    """Serves this replica's methods to callers on its node, until it is closed. See ``CallServer`` for the limit."""
    context = serve.get_replica_context()
    server = CallServer(methods, max_calls=max_calls, limit=limit)
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
            raise Overloaded(
                f"max_queued_requests: no more may be queued for {self._handle.deployment_name}; retry later or add "
                "replicas",
                limit="max_queued_requests",
            ) from exc
        except RayActorError as exc:  # it died, or did before, and Serve has not noticed yet
            raise ReplicaGone("a replica died or is not there; try again") from exc
        except DeploymentUnavailableError as exc:
            raise Unavailable("no replica can be started") from exc
