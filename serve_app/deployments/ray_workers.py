"""Adapters that start, call, find and kill the Ray actors of streams."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from serve_app.config import AppArgs
from serve_app.deployments.handles import ActorReplica, StubMethod
from serve_app.deployments.ray_internals import draining_nodes, is_application_gone, runtime_env
from serve_app.deployments.stream_worker import NAMESPACE, StreamWorker, actor_names, name_prefix
from serve_app.deployments.stubs import WorkerStub
from serve_app.schemas.streams import Regions, StreamStatus
from serve_app.streams.store import Record
from serve_app.streams.workers import WorkerDied, WorkerFailed, WorkerNotKilled, WorkerUnreachable
from serve_app.types import EventPage, Snapshot
from serve_app.video.source import Source

_KILL_TIMEOUT_S = 5.0
_KILL_INTERVAL_S = 0.02

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class RayWorker:
    """The actor of one stream. See ``streams.workers.Worker``."""

    actor: ActorHandle

    async def ready(self) -> None:
        await self._call(WorkerStub.ready)

    async def node(self) -> str:
        return await self._call(WorkerStub.node)

    async def run(self) -> StreamStatus:
        return await self._call(WorkerStub.run)

    async def status(self) -> StreamStatus:
        return await self._call(WorkerStub.status)

    async def events(self, after: int | None, within_s: float) -> EventPage:
        return await self._call(WorkerStub.events, after, within_s)

    async def snapshot(
        self, after: int | None, within_s: float, boxes: bool, max_side_px: int | None = None
    ) -> Snapshot | None:
        return await self._call(WorkerStub.snapshot, after, within_s, boxes, max_side_px)

    async def set_regions(self, regions: Regions) -> None:
        await self._call(WorkerStub.set_regions, regions)

    async def stop(self) -> StreamStatus:
        return await self._call(WorkerStub.stop)

    def kill(self) -> None:
        ray.kill(self.actor)

    async def _call(self, method: StubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the actor and return the result.

        Raise ServeAppError if the actor refuses the call, or WorkerError if the call fails.
        """
        try:
            return await ActorReplica(self.actor).call(method, *args, **kwargs)
        except ActorUnavailableError as exc:
            raise WorkerUnreachable(type(exc).__name__) from exc
        except RayActorError as exc:
            raise WorkerDied(type(exc).__name__) from exc
        except RayError as exc:
            raise WorkerFailed(type(exc).__name__) from exc


class RayWorkers:
    """The named, detached actors of an application's streams. See ``streams.workers.Workers``."""

    def __init__(self, application: str, args: AppArgs) -> None:
        self._application = application
        self._args = args

    def start(self, record: Record, source: Source) -> RayWorker:
        """Return the record's actor.

        If there is none, start one. Ray spreads actors over the nodes that are not draining.
        """
        actor = ray.remote(StreamWorker).options(
            name=self._full_name(record.worker_name),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=0,  # the supervisor restarts actors and counts the restarts
            num_cpus=0.02,
            scheduling_strategy="SPREAD",
            # With task events, Ray's control service (GCS) would store every call: 8 MiB per minute for 11 streams.
            enable_task_events=False,
            # The supervisor reports the streams' metrics. If each actor reported its own metrics, Ray's node agent
            # would keep the counters and histograms of every deleted stream forever.
            runtime_env=runtime_env({"RAY_enable_metrics_collection": "0"}),
        )
        try:
            return RayWorker(actor.remote(record.spec, source, self._application, self._args))
        except RayError as exc:
            raise WorkerFailed(type(exc).__name__) from exc

    async def kill(self, name: str) -> None:
        """Kill the actor with this name, if it exists, and wait until the name is free.

        Raise WorkerNotKilled if the name is still in use after 5 s, or if Ray does not answer.
        """
        loop = asyncio.get_running_loop()
        expires_at_s = loop.time() + _KILL_TIMEOUT_S
        while loop.time() < expires_at_s:
            try:
                await asyncio.to_thread(_kill_actor, self._full_name(name))
            except ValueError:
                return  # no actor has this name
            except (RayError, OSError):
                pass  # Ray's head is down or restarting
            await asyncio.sleep(_KILL_INTERVAL_S)
        raise WorkerNotKilled(f"the process did not end within {_KILL_TIMEOUT_S:g} s")

    async def running(self) -> set[str]:
        """Return the names of the application's stream actors."""
        names = await asyncio.to_thread(actor_names, self._application)
        return {name.removeprefix(name_prefix(self._application)) for name in names}

    async def draining_nodes(self) -> set[str]:
        """Return the ids of draining nodes."""
        return await asyncio.to_thread(draining_nodes)

    async def is_application_gone(self) -> bool:
        """Return whether the application was deleted."""
        return await asyncio.to_thread(is_application_gone, self._application)

    def _full_name(self, name: str) -> str:
        return name_prefix(self._application) + name


def _kill_actor(name: str) -> None:
    ray.kill(ray.get_actor(name, namespace=NAMESPACE))
