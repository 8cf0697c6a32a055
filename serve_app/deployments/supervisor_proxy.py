"""The client with which the HTTP API calls the StreamSupervisor."""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle

from serve_app.deployments.stubs import SupervisorStub
from serve_app.deployments.supervisor_calls import SupervisorCalls
from serve_app.schemas.recording import FilePiece, RecordingList
from serve_app.schemas.streams import Regions, State, StreamSpec, StreamStatus
from serve_app.types import EventPage, Principal, Snapshot

_TIMEOUT_S = 30.0  # long, because a stopping worker first sends the events that wait in its sinks


class SupervisorProxy:
    """A client of the StreamSupervisor. See ``api.backend.Streams``. Only calls that change nothing are repeated."""

    def __init__(self, supervisor: DeploymentHandle) -> None:
        self._calls = SupervisorCalls(supervisor, "stream supervisor")

    async def create(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        return await self._calls.once(_TIMEOUT_S, SupervisorStub.create, spec, who)

    async def all(self, who: Principal) -> list[StreamStatus]:
        return await self._calls.repeat(_TIMEOUT_S, SupervisorStub.all, who)

    async def states(self, who: Principal) -> dict[str, State]:
        return await self._calls.repeat(_TIMEOUT_S, SupervisorStub.states, who)

    async def status(self, stream_id: str, who: Principal) -> StreamStatus:
        return await self._calls.repeat(_TIMEOUT_S, SupervisorStub.status, stream_id, who)

    async def replace(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        return await self._calls.once(_TIMEOUT_S, SupervisorStub.replace, spec, who)

    async def delete(self, stream_id: str, who: Principal) -> None:
        await self._calls.once(_TIMEOUT_S, SupervisorStub.delete, stream_id, who)

    async def pause(self, stream_id: str, who: Principal) -> StreamStatus:
        return await self._calls.once(_TIMEOUT_S, SupervisorStub.pause, stream_id, who)

    async def resume(self, stream_id: str, who: Principal) -> StreamStatus:
        return await self._calls.once(_TIMEOUT_S, SupervisorStub.resume, stream_id, who)

    async def regions(self, stream_id: str, who: Principal) -> Regions:
        return await self._calls.repeat(_TIMEOUT_S, SupervisorStub.regions, stream_id, who)

    async def set_regions(self, stream_id: str, who: Principal, regions: Regions) -> StreamStatus:
        return await self._calls.once(_TIMEOUT_S, SupervisorStub.set_regions, stream_id, who, regions)

    async def set_owner(self, stream_id: str, who: Principal, owner: str) -> StreamStatus:
        return await self._calls.once(_TIMEOUT_S, SupervisorStub.set_owner, stream_id, who, owner)

    async def events(self, stream_id: str, who: Principal, after: int | None, within_s: float) -> EventPage:
        return await self._calls.repeat(_TIMEOUT_S, SupervisorStub.events, stream_id, who, after, within_s)

    async def snapshot(
        self,
        stream_id: str,
        who: Principal,
        after: int | None,
        within_s: float,
        *,
        boxes: bool,
        max_side_px: int | None = None,
    ) -> Snapshot | None:
        return await self._calls.repeat(
            _TIMEOUT_S, SupervisorStub.snapshot, stream_id, who, after, within_s, boxes=boxes, max_side_px=max_side_px
        )

    async def recordings(self, stream_id: str, who: Principal, before: str | None, limit: int) -> RecordingList:
        return await self._calls.repeat(_TIMEOUT_S, SupervisorStub.recordings, stream_id, who, before, limit)

    async def read_recording(self, stream_id: str, who: Principal, file_name: str, offset: int, size: int) -> FilePiece:
        return await self._calls.repeat(
            _TIMEOUT_S, SupervisorStub.read_recording, stream_id, who, file_name, offset, size
        )
