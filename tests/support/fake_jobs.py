"""A fake of the JobSupervisor, which keeps jobs in memory."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict

from serve_app.errors import Conflict, Forbidden, NotFinished, NotFound, ServeAppError
from serve_app.schemas.detect import Box, Detection, ImageSize
from serve_app.schemas.jobs import (
    AT_REST,
    FileInfo,
    Format,
    JobFailure,
    JobItems,
    JobList,
    JobResult,
    JobSpec,
    JobState,
    JobStatus,
    Retry,
)
from serve_app.types import Event, EventPage, Principal


class FakeJobs:
    """Fake jobs, whose states, items and files a test sets. A job of uploads completes when it starts."""

    def __init__(self) -> None:
        self.specs: dict[str, JobSpec] = {}
        self.owners: dict[str, str | None] = {}
        self.states: dict[str, JobState] = {}
        self.done: dict[str, list[JobResult | JobFailure]] = defaultdict(list)
        self.files: dict[tuple[str, Format], bytes] = {}
        self.uploads: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.pieces: list[int] = []  # the sizes of the pieces of uploads, as they came
        self.logs: dict[str, list[Event]] = defaultdict(list)
        self.retried: list[Retry] = []
        self.failure: ServeAppError | None = None
        self._changed = asyncio.Event()

    def set_state(self, job_id: str, state: JobState) -> None:
        """Change a job's state, and add an event."""
        number, change = len(self.logs[job_id]), {"state": state, "previous": self.states.get(job_id, state)}
        body = {"event_id": number, "type": "state", "job_id": job_id, "at_s": 1.0} | change
        self.states[job_id] = state
        self.logs[job_id].append(Event(number, "state", job_id, json.dumps(body)))
        self._changed.set()
        self._changed = asyncio.Event()

    async def create(self, spec: JobSpec, who: Principal) -> JobStatus:
        if self.failure:
            raise self.failure
        if spec.id in self.specs:
            raise Conflict(f"job {spec.id!r} already exists")
        self.specs[spec.id], self.owners[spec.id] = spec, who.owner
        self.set_state(spec.id, "collecting" if spec.source.type == "upload" else "queued")
        return await self.status(spec.id, who)

    async def put(self, spec: JobSpec, who: Principal) -> tuple[JobStatus, bool]:
        if spec.id not in self.specs:
            return await self.create(spec, who), True
        if not who.may_see(self.owners[spec.id]) or self.specs[spec.id] != spec:
            raise Conflict(f"job {spec.id!r} already exists")
        return await self.status(spec.id, who), False

    async def all(
        self, who: Principal, *, state: JobState | None, tag: str | None, after: str | None, limit: int
    ) -> JobList:
        newest = [job_id for job_id in reversed(self.specs) if who.may_see(self.owners[job_id])]
        if after is not None:
            newest = newest[newest.index(after) + 1 :]
        found = [
            job_id
            for job_id in newest
            if state in {None, self.states[job_id]}
            and tag in {None, *self.specs[job_id].tags, *map("=".join, self.specs[job_id].tags.items())}
        ]
        statuses = [await self.status(job_id, who) for job_id in found[:limit]]
        return JobList(jobs=statuses, next=found[limit - 1] if len(found) > limit else None)

    async def status(self, job_id: str, who: Principal) -> JobStatus:
        self._find(job_id, who)
        return JobStatus(
            job_id=job_id,
            state=self.states[job_id],
            owner=self.owners[job_id],
            source=self.specs[job_id].source.type,
            items=len(self.done[job_id]),
            created_at_s=1.0,
        )

    async def items(self, job_id: str, who: Principal, *, state: str | None, after: int | None, limit: int) -> JobItems:
        self._find(job_id, who)
        found = [
            item
            for item in self.done[job_id]
            if state in {None, "succeeded" if isinstance(item, JobResult) else "failed"}
            and (after is None or item.item > after)
        ]
        return JobItems(items=found[:limit], next=found[limit - 1].item if len(found) > limit else None)

    async def cancel(self, job_id: str, who: Principal) -> JobStatus:
        return await self._moved(job_id, who, "cancelled")

    async def pause(self, job_id: str, who: Principal) -> JobStatus:
        return await self._set_paused(job_id, who, "paused")

    async def resume(self, job_id: str, who: Principal) -> JobStatus:
        return await self._set_paused(job_id, who, "running")

    async def retry(self, job_id: str, who: Principal, retry: Retry) -> JobStatus:
        self._find(job_id, who)
        self.retried.append(retry)
        return await self._moved(job_id, who, "running")

    async def delete(self, job_id: str, who: Principal) -> None:
        self._find(job_id, who)
        del self.specs[job_id]
        self.uploads.pop(job_id, None)

    async def set_owner(self, job_id: str, who: Principal, owner: str) -> JobStatus:
        if not who.is_admin:
            raise Forbidden("owner: only an administrator can set it")
        self._find(job_id, who)
        if self.owners[job_id] not in {None, owner}:
            raise Conflict("owner: the job has another owner")
        self.owners[job_id] = owner
        return await self.status(job_id, who)

    async def results(self, job_id: str, who: Principal, kind: Format) -> FileInfo:
        self._find(job_id, who)
        if self.states[job_id] not in AT_REST:
            raise NotFinished("the job has not ended")
        data = self.files[job_id, kind]
        return FileInfo(len(data), hashlib.sha256(data).hexdigest())

    async def read_results(self, job_id: str, who: Principal, kind: Format, offset: int, size: int) -> bytes:
        self._find(job_id, who)
        return self.files[job_id, kind][offset : offset + size]

    async def put_file(self, job_id: str, who: Principal, name: str, offset: int, data: bytes, *, last: bool) -> None:
        self._find(job_id, who)
        if self.failure:
            raise self.failure
        if self.states[job_id] != "collecting":
            raise Conflict("the job has started already")
        self.pieces.append(len(data))
        self.uploads[job_id][name] = self.uploads[job_id].get(name, b"")[:offset] + data

    async def start(self, job_id: str, who: Principal) -> JobStatus:
        self._find(job_id, who)
        if self.states[job_id] != "collecting":
            raise Conflict("the job has started already")
        return await self._moved(job_id, who, "completed")

    async def picture(self, job_id: str, who: Principal, item: int, *, boxes: bool) -> bytes:
        self._find(job_id, who)
        if item >= len(self.done[job_id]):
            raise NotFound(f"job {job_id!r} has no item {item}")
        return b"drawn" if boxes else b"plain"

    async def events(self, job_id: str, who: Principal, after: int | None, within_s: float) -> EventPage:
        self._find(job_id, who)
        last = len(self.logs[job_id]) - 1
        after = last if after is None else after
        if after >= last:
            try:
                await asyncio.wait_for(self._changed.wait(), min(within_s, 0.05))
            except TimeoutError:
                return EventPage([], after, 0)
        return EventPage(self.logs[job_id][after + 1 :], after, 0)

    async def _set_paused(self, job_id: str, who: Principal, state: JobState) -> JobStatus:
        self._find(job_id, who)
        if self.states[job_id] in AT_REST:
            raise Conflict(f"job {job_id!r} has ended")
        return await self._moved(job_id, who, state)

    async def _moved(self, job_id: str, who: Principal, state: JobState) -> JobStatus:
        self._find(job_id, who)
        self.set_state(job_id, state)
        return await self.status(job_id, who)

    def _find(self, job_id: str, who: Principal) -> None:
        if job_id not in self.specs or not who.may_see(self.owners[job_id]):
            raise NotFound(f"job {job_id!r} does not exist")


def result_of(job_id: str, item: int) -> JobResult:
    """Return a result with one dog."""
    dog = Detection(label="dog", class_id=1, confidence=0.75, bbox=Box(x1=0, y1=0, x2=item, y2=10))
    return JobResult(
        job_id=job_id,
        item=item,
        name=f"{item}.jpg",
        count=1,
        detections=[dog],
        image=ImageSize(width=100, height=50),
        model="fake",
    )


def failure_of(job_id: str, item: int) -> JobFailure:
    """Return the failure of an item that cannot be decoded."""
    return JobFailure(job_id=job_id, item=item, name=f"{item}.jpg", code="undecodable", detail="the image is corrupt")
