"""The client with which the HTTP API calls the StreamSupervisor."""

from __future__ import annotations

import asyncio
from typing import ParamSpec, TypeVar

from ray.serve.handle import DeploymentHandle

from serve_app.deployments.handles import Replicas, StubMethod
from serve_app.deployments.stubs import SUPERVISOR_MAX_CALLS, SupervisorStub
from serve_app.errors import DeadlineExceeded, Unavailable
from serve_app.overload.retries import Retries
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.types import EventPage, Snapshot

_TIMEOUT_S = 30.0  # long, because a stopping worker first sends the events that wait in its sinks

P = ParamSpec("P")
T = TypeVar("T")


class SupervisorProxy:
    """A client of the StreamSupervisor. See ``api.backend.Streams``.

    When the supervisor dies during a call that only reads, the call is retried. A call that changes something is not
    retried, because the supervisor may already have made the change.
    """

    def __init__(self, supervisor: DeploymentHandle) -> None:
        self._supervisor = Replicas(supervisor)
        self._retries = Retries(in_flight=SUPERVISOR_MAX_CALLS)

    async def create(self, spec: StreamSpec) -> StreamStatus:
        return await self._call(SupervisorStub.create, spec)

    async def all(self) -> list[StreamStatus]:
        return await self._read(SupervisorStub.all)

    async def status(self, stream_id: str) -> StreamStatus:
        return await self._read(SupervisorStub.status, stream_id)

    async def replace(self, spec: StreamSpec) -> StreamStatus:
        return await self._call(SupervisorStub.replace, spec)

    async def delete(self, stream_id: str) -> None:
        await self._call(SupervisorStub.delete, stream_id)

    async def pause(self, stream_id: str) -> StreamStatus:
        return await self._call(SupervisorStub.pause, stream_id)

    async def resume(self, stream_id: str) -> StreamStatus:
        return await self._call(SupervisorStub.resume, stream_id)

    async def regions(self, stream_id: str) -> Regions:
        return await self._read(SupervisorStub.regions, stream_id)

    async def set_regions(self, stream_id: str, regions: Regions) -> StreamStatus:
        return await self._call(SupervisorStub.set_regions, stream_id, regions)

    async def events(self, stream_id: str, after: int | None, within_s: float) -> EventPage:
        return await self._read(SupervisorStub.events, stream_id, after, within_s)

    async def snapshot(self, stream_id: str, after: int | None, within_s: float, *, boxes: bool) -> Snapshot | None:
        return await self._read(SupervisorStub.snapshot, stream_id, after, within_s, boxes=boxes)

    async def _read(self, method: StubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._retries.run(lambda _: self._supervisor.call(method, *args, **kwargs), _TIMEOUT_S)
        except DeadlineExceeded as exc:
            raise Unavailable("the stream supervisor does not answer; retry later") from exc

    async def _call(self, method: StubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await asyncio.wait_for(self._supervisor.call(method, *args, **kwargs), _TIMEOUT_S)
        except TimeoutError as exc:
            raise Unavailable("the stream supervisor does not answer; retry later") from exc
