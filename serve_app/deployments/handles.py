"""Typed calls between deployments, over a Unix socket within a node and over Serve's handles between nodes.

A replica returns expected errors as values instead of raising them. Ray would wrap a raised error in a RayTaskError,
whose text is the remote traceback, and would log it as a fault of the replica. Callers do not see the difference,
because ``Replicas`` and ``ActorReplica`` raise the returned errors.
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
StubMethod = Callable[Concatenate[Any, P], Awaitable[T]]  # an unbound method of a class in ``stubs``


def stub_methods(stub: type[Any]) -> list[str]:
    """Return the names of a stub's methods."""
    return [name for name, _ in inspect.getmembers(stub, inspect.isfunction) if not name.startswith("_")]


def serves(stub: type[Any]) -> Callable[[C], C]:
    """Return a class decorator that makes a stub's methods return expected errors instead of raising them."""

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
    """Return the name by which callers find a deployment's replicas on this node. No two Ray clusters share a name."""
    node = ray.get_runtime_context().get_node_id()
    return hashlib.sha256(f"{node} {application} {deployment}".encode()).hexdigest()[:16]


async def listen(replica: object, stub: type[Any], *, max_calls: int, limit: Limit) -> CallServer:
    """Answer calls that processes on this node make to a stub's methods, until ``close`` is called.

    ``CallServer`` explains ``max_calls`` and ``limit``.
    """
    context = serve.get_replica_context()
    methods = {name: getattr(replica, name) for name in stub_methods(stub)}
    server = CallServer(methods, max_calls=max_calls, limit=limit)
    await server.start(service_name(context.app_name, context.deployment))
    return server


async def close(server: CallServer) -> None:
    """Stop listening after all accepted calls are answered.

    When an application is deleted, Serve stops all replicas at the same time, and does not know about calls over Unix
    sockets. A replica therefore waits until its callers have exited. In a rolling update it need not wait, because its
    callers use other replicas.
    """
    if await asyncio.to_thread(_is_application_ending):
        await server.wait_until_disconnected()
    await server.close()


def _is_application_ending() -> bool:
    context = serve.get_replica_context()
    try:
        status = serve.status().applications.get(context.app_name)
    except Exception:  # the controller may already have stopped
        return False
    return status is None or status.status == ApplicationStatus.DELETING


class Replicas:
    """The replicas of a deployment.

    Calls go directly to a replica on this node if there is one, else to Serve's handle.
    """

    def __init__(self, handle: DeploymentHandle, **init: Any) -> None:
        """Wrap a handle of Serve. ``init`` has options of the handle's private method ``_init``."""
        handle._init(_prefer_local_routing=True, **init)
        self._handle = handle
        self._local = LocalReplicas(service_name(handle.app_name, handle.deployment_name))

    async def call(self, method: StubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of a stub and return its result. Raise ServeAppError if the call is refused or fails.

        ReplicaGone and ReplicaDied can be retried: see ``Retries``. Any other type of exception is a bug.
        """
        name = method.__name__
        try:
            result: T | ServeAppError = await self._local.call(name, *args, **kwargs)
        except ReplicaDied:
            raise
        except ReplicaGone:
            result = await self._call_handle(name, *args, **kwargs)
        return raise_refusal(result)

    async def _call_handle(self, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return await getattr(self._handle, name).remote(*args, **kwargs)
        except BackPressureError as exc:
            raise Overloaded(
                f"max_queued_requests: the queue of {self._handle.deployment_name} is full; retry later or add "
                "replicas",
                limit="max_queued_requests",
            ) from exc
        except RayActorError as exc:  # the replica may have died before this call
            raise ReplicaGone("the replica that was called has died; retry the request") from exc
        except DeploymentUnavailableError as exc:
            raise Unavailable("no replica can be started; the server's log has the reason") from exc


class ActorReplica:
    """A Ray actor that Serve does not manage. It answers calls of a stub's methods."""

    def __init__(self, actor: ActorHandle) -> None:
        self._actor = actor

    async def call(self, method: StubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of a stub and return its result.

        Raise ServeAppError if the actor refuses the call, or RayError if the call fails.
        """
        result: T | ServeAppError = await getattr(self._actor, method.__name__).remote(*args, **kwargs)
        return raise_refusal(result)


def raise_refusal(result: T | ServeAppError) -> T:
    """Raise the error that a replica has returned, or return the result."""
    if isinstance(result, ServeAppError):
        raise result
    return result
