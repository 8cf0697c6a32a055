"""The client with which the HTTP API calls the JobSupervisor."""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle

from serve_app.deployments.stubs import JobSupervisorStub
from serve_app.deployments.supervisor_calls import SupervisorCalls
from serve_app.schemas.jobs import FileInfo, Format, JobItems, JobList, JobSpec, JobState, JobStatus, Retry
from serve_app.types import EventPage, Principal

_TIMEOUT_S = 30.0
_FILE_TIMEOUT_S = 600.0  # for making a file of results, which takes long for millions of items
_PICTURE_TIMEOUT_S = 60.0  # a runner may have to start first


class JobsProxy:
    """A client of the JobSupervisor. See ``api.backend.Jobs``. Only calls that may be made twice are repeated."""

    def __init__(self, supervisor: DeploymentHandle) -> None:
        self._calls = SupervisorCalls(supervisor, "job supervisor")

    async def create(self, spec: JobSpec, who: Principal) -> JobStatus:
        return await self._calls.once(_TIMEOUT_S, JobSupervisorStub.create, spec, who)

    async def put(self, spec: JobSpec, who: Principal) -> tuple[JobStatus, bool]:
        return await self._calls.repeat(_TIMEOUT_S, JobSupervisorStub.put, spec, who)

    async def all(
        self, who: Principal, *, state: JobState | None, tag: str | None, after: str | None, limit: int
    ) -> JobList:
        return await self._calls.repeat(
            _TIMEOUT_S, JobSupervisorStub.all, who, state=state, tag=tag, after=after, limit=limit
        )

    async def status(self, job_id: str, who: Principal) -> JobStatus:
        return await self._calls.repeat(_TIMEOUT_S, JobSupervisorStub.status, job_id, who)

    async def items(self, job_id: str, who: Principal, *, state: str | None, after: int | None, limit: int) -> JobItems:
        return await self._calls.repeat(
            _TIMEOUT_S, JobSupervisorStub.items, job_id, who, state=state, after=after, limit=limit
        )

    async def cancel(self, job_id: str, who: Principal) -> JobStatus:
        return await self._calls.once(_TIMEOUT_S, JobSupervisorStub.cancel, job_id, who)

    async def pause(self, job_id: str, who: Principal) -> JobStatus:
        return await self._calls.once(_TIMEOUT_S, JobSupervisorStub.pause, job_id, who)

    async def resume(self, job_id: str, who: Principal) -> JobStatus:
        return await self._calls.once(_TIMEOUT_S, JobSupervisorStub.resume, job_id, who)

    async def retry(self, job_id: str, who: Principal, retry: Retry) -> JobStatus:
        return await self._calls.once(_TIMEOUT_S, JobSupervisorStub.retry, job_id, who, retry)

    async def delete(self, job_id: str, who: Principal) -> None:
        await self._calls.once(_TIMEOUT_S, JobSupervisorStub.delete, job_id, who)

    async def set_owner(self, job_id: str, who: Principal, owner: str) -> JobStatus:
        return await self._calls.once(_TIMEOUT_S, JobSupervisorStub.set_owner, job_id, who, owner)

    async def results(self, job_id: str, who: Principal, kind: Format) -> FileInfo:
        return await self._calls.repeat(_FILE_TIMEOUT_S, JobSupervisorStub.results, job_id, who, kind)

    async def read_results(self, job_id: str, who: Principal, kind: Format, offset: int, size: int) -> bytes:
        return await self._calls.repeat(_TIMEOUT_S, JobSupervisorStub.read_results, job_id, who, kind, offset, size)

    async def put_file(self, job_id: str, who: Principal, name: str, offset: int, data: bytes, *, last: bool) -> None:
        await self._calls.repeat(_TIMEOUT_S, JobSupervisorStub.put_file, job_id, who, name, offset, data, last=last)

    async def start(self, job_id: str, who: Principal) -> JobStatus:
        return await self._calls.once(_TIMEOUT_S, JobSupervisorStub.start, job_id, who)

    async def picture(self, job_id: str, who: Principal, item: int, *, boxes: bool) -> bytes:
        return await self._calls.repeat(_PICTURE_TIMEOUT_S, JobSupervisorStub.picture, job_id, who, item, boxes=boxes)

    async def events(self, job_id: str, who: Principal, after: int | None, within_s: float) -> EventPage:
        return await self._calls.repeat(_TIMEOUT_S, JobSupervisorStub.events, job_id, who, after, within_s)
