"""Calls between deployments: typed, over a Unix socket on one node and over Serve's handles between nodes.

An expected refusal crosses a process border as a returned value. Raised, Ray would wrap it in a RayTaskError whose text
is the remote traceback, and log it as a fault of the replica. No caller sees such values: ``Replicas`` and
``ActorReplica`` raise them again.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from serve_app.errors import Limit, Overloaded, ReplicaDied, ReplicaGone, ServeAppError, Unavailable
from serve_app.ipc.rpc import CallServer, LocalReplicas
from serve_app.types import DEFAULT_MODEL

C = TypeVar("C", bound=type[Any])
P = ParamSpec("P")
T = TypeVar("T")
StubMethod = Callable[Concatenate[Any, P], Awaitable[T]]  # a method of one of ``stubs``, unbound


def stub_methods(stub: type[Any]) -> list[str]:
    """Return the names of a stub's methods."""
    return [name for name, _ in inspect.getmembers(stub, inspect.isfunction) if not name.startswith("_")]


def serves(stub: type[Any]) -> Callable[[C], C]:
    """Have a class answer the calls of a stub: its methods return expected errors instead of raising them."""

    def decorate(cls: C) -> C:
        for name in stub_methods(stub):
            setattr(cls, name, refusals_as_values(getattr(cls, name)))
        return cls

    return decorate


def refusals_as_values(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T | ServeAppError]]:
    @functools.wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T | ServeAppError:
        try:
            return await method(*args, **kwargs)
        except ServeAppError as exc:
            return exc

    return wrapper


def detector_name(model: str) -> str:
    """Return the name of the deployment that serves a model."""
    return "Detector" if model == DEFAULT_MODEL else f"Detector-{model}"


def service_name(application: str, deployment: str) -> str:
    """Return the name under which a deployment's replicas on this node are found. No two clusters share one."""
    node = ray.get_runtime_context().get_node_id()
    return hashlib.sha256(f"{node} {application} {deployment}".encode()).hexdigest()[:16]


async def listen(replica: object, stub: type[Any], *, max_calls: int, limit: Limit) -> CallServer:
    """Answer the calls of a stub to callers on this node, until ``close``. See ``CallServer`` for the limit."""
    context = serve.get_replica_context()
    methods = {name: getattr(replica, name) for name in stub_methods(stub)}
    server = CallServer(methods, max_calls=max_calls, limit=limit)
    await server.start(service_name(context.app_name, context.deployment))
    return server


async def close(server: CallServer) -> None:
    """Stop listening, after the accepted calls are answered.

    When an application is deleted, Serve ends all its replicas at once and does not know of these calls: then a replica
    stays until its callers have ended. In a rolling update its callers go to another replica.
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
    """The replicas of a deployment. One on this node is called directly, others over Serve's handle."""

    def __init__(self, handle: DeploymentHandle, **init: Any) -> None:
        """``init``: options of Serve's handle."""
        handle._init(_prefer_local_routing=True, **init)
        self._handle = handle
        self._local = LocalReplicas(service_name(handle.app_name, handle.deployment_name))

    async def call(self, method: StubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the method of a stub returns. Raises ServeAppError; anything else that is raised is a bug.

        ReplicaGone and ReplicaDied are worth another call: see ``Retries``.
        """
        name = method.__name__
        try:
            result: T | ServeAppError = await self._local.call(name, *args, **kwargs)
        except ReplicaDied:
            raise
        except ReplicaGone:
            result = await self._call_handle(name, *args, **kwargs)
        return _raised(result)

    async def _call_handle(self, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return await getattr(self._handle, name).remote(*args, **kwargs)
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


class ActorReplica:
    """A plain Ray actor that answers the calls of a stub."""

    def __init__(self, actor: ActorHandle) -> None:
        self._actor = actor

    async def call(self, method: StubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the method of a stub returns. Raises ServeAppError, and RayError where the actor is gone."""
        result: T | ServeAppError = await getattr(self._actor, method.__name__).remote(*args, **kwargs)
        return _raised(result)


def _raised(result: T | ServeAppError) -> T:
    if isinstance(result, ServeAppError):
        raise result
    return result
