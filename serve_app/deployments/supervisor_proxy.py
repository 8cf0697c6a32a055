"""The streams as the HTTP interface needs them: each operation is a call of the StreamSupervisor."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve_app.deployments.handles import Replicas
from serve_app.errors import DeadlineExceeded, Unavailable
from serve_app.overload.retries import Retries
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.types import EventPage, Snapshot

_IN_FLIGHT = 1024  # each client that follows a stream has one call in flight; the supervisor takes no more
_TIMEOUT_S = 30.0  # long, because a worker that is stopped first sends the events that its sinks still hold


class StreamClient:
    """The supervised streams. See ``api.backend.Streams``.

    When the supervisor dies, reads are retried. A change is not, because it may have been made.
    """

    def __init__(self, supervisor: DeploymentHandle) -> None:
        self._supervisor = Replicas(supervisor)
        self._retries = Retries(_IN_FLIGHT)

    async def create(self, spec: StreamSpec) -> StreamStatus:
        status: StreamStatus = await self._call("create", spec)
        return status

    async def all(self) -> list[StreamStatus]:
        streams: list[StreamStatus] = await self._read("all")
        return streams

    async def status(self, stream_id: str) -> StreamStatus:
        status: StreamStatus = await self._read("status", stream_id)
        return status

    async def replace(self, spec: StreamSpec) -> StreamStatus:
        status: StreamStatus = await self._call("replace", spec)
        return status

    async def delete(self, stream_id: str) -> None:
        await self._call("delete", stream_id)

    async def pause(self, stream_id: str) -> StreamStatus:
        status: StreamStatus = await self._call("pause", stream_id)
        return status

    async def resume(self, stream_id: str) -> StreamStatus:
        status: StreamStatus = await self._call("resume", stream_id)
        return status

    async def regions(self, stream_id: str) -> Regions:
        regions: Regions = await self._read("regions", stream_id)
        return regions

    async def set_regions(self, stream_id: str, regions: Regions) -> StreamStatus:
        status: StreamStatus = await self._call("set_regions", stream_id, regions)
        return status

    async def events(self, stream_id: str, after: int | None, within_s: float) -> EventPage:
        page: EventPage = await self._read("events", stream_id, after, within_s)
        return page

    async def snapshot(self, stream_id: str, after: int | None, within_s: float, *, boxes: bool) -> Snapshot | None:
        snapshot: Snapshot | None = await self._read("snapshot", stream_id, after, within_s, boxes)
        return snapshot

    async def _read(self, method: str, *args: Any) -> Any:
        try:
            return await self._retries.run(lambda _: self._supervisor.call(method, *args), _TIMEOUT_S)
        except DeadlineExceeded as exc:
            raise Unavailable("the stream supervisor does not answer") from exc

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            return await asyncio.wait_for(self._supervisor.call(method, *args), _TIMEOUT_S)
        except TimeoutError as exc:
            raise Unavailable("the stream supervisor does not answer") from exc
