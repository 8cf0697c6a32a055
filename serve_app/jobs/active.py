"""What the supervision knows about an unfinished job, and the status that clients get."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from serve_app.jobs.store import Job
from serve_app.jobs.units import Unit
from serve_app.schemas.jobs import AT_REST, JobProgress, JobState, JobStatus, OutputStatus
from serve_app.schemas.sinks import SinkStatus

_RATE_OVER_S = 60.0


def size(unit: Unit) -> int:
    """Return how many items of a unit a runner must compute. A clip counts whole."""
    if unit.clip is not None:
        return unit.clip.expected
    return len(unit.items) if unit.todo is None else len(unit.todo)


class Rate:
    """The rate at which a job's items are done, over the last minute."""

    def __init__(self) -> None:
        self._done: deque[tuple[float, int]] = deque()
        self._started_at_s = math.inf

    def start(self, now_s: float) -> None:
        """Begin to measure, unless the measurement has begun already."""
        self._started_at_s = min(self._started_at_s, now_s)

    def add(self, items: int, now_s: float) -> None:
        """Count items that are done."""
        self._done.append((now_s, items))

    def per_s(self, now_s: float) -> float:
        """Return the number of items per second."""
        while self._done and self._done[0][0] < now_s - _RATE_OVER_S:
            self._done.popleft()
        over_s = min(max(now_s - self._started_at_s, 1.0), _RATE_OVER_S)
        return sum(items for _, items in self._done) / over_s


@dataclass(eq=False)
class ActiveJob:
    """An unfinished job, in memory."""

    job: Job  # as the store last had it
    out: dict[int, Unit] = field(default_factory=dict)  # the units that runners are working on, by number
    tasks: set[asyncio.Task[None]] = field(default_factory=set)  # the calls of runners, the listing and the finishing
    rate: Rate = field(default_factory=Rate)
    may_have_open: bool = True  # whether the store may have a unit that can be claimed
    not_before_s: float = 0.0  # no unit is claimed before this time of the event loop's clock
    served: float = 0.0  # see ``Shares``
    uploads: set[asyncio.Task[None]] = field(default_factory=set)  # the pieces of files that are being written
    last_problem: str = ""  # why the job's last unit, or the listing, has failed for now
    unstored_block: str = ""  # why the job is blocked, if the store could not take this state
    failures_in_a_row: int = 0  # of calls of runners
    is_finishing: bool = False
    is_ended: bool = False  # the job is at rest, or about to be
    resumed: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # held during a change that a client has asked for

    def __post_init__(self) -> None:
        if not self.job.spec.paused:
            self.resumed.set()

    @property
    def id(self) -> str:
        """The id of the job."""
        return self.job.spec.id

    def update(self, job: Job) -> None:
        """Take over what the store has returned, unless it is older than what is known already."""
        if job.version >= self.job.version:
            self.job = job

    async def upload(self, write: Coroutine[Any, Any, None]) -> None:
        """Write a piece of a file. The job's start and its deletion wait until it is written."""
        task = asyncio.create_task(write)
        self.uploads.add(task)
        task.add_done_callback(self.uploads.discard)
        await task

    async def uploaded(self) -> None:
        """Wait until the pieces of files that have been received are written."""
        if self.uploads:
            await asyncio.wait(self.uploads)

    @property
    def model_version(self) -> str | None:
        """The version of the model of the first results, if the job is pinned to it."""
        if not self.job.spec.pin_model or not self.job.models:
            return None
        return next(iter(self.job.models)).rpartition("@")[2]

    @property
    def active_state(self) -> JobState:
        """The state of the job while nothing hinders it."""
        if self.job.spec.paused:
            return "paused"
        return "queued" if self.job.started_at_s is None else "running"

    @property
    def is_held(self) -> bool:
        """Whether no unit of the job may be begun."""
        is_at_end = self.is_ended or self.is_finishing
        return is_at_end or self.job.spec.paused or self.job.state in ("collecting", "cancelling")

    def may_dispatch(self, now_s: float) -> bool:
        """Return whether another unit of the job may be claimed now."""
        return self.may_have_open and not self.is_held and self.not_before_s <= now_s


def shown(job: Job, work: ActiveJob | None) -> tuple[JobState, str]:
    """Return a job's state and detail as clients get them."""
    if work is None or not work.unstored_block or job.state in AT_REST:
        return job.state, job.detail
    return "cancelling" if job.state == "cancelling" else "blocked", work.unstored_block


def progress_of(job: Job, work: ActiveJob | None, now_s: float) -> JobProgress:
    """Return a job's counters. ``now_s`` is a time of the event loop's clock."""
    left = job.waiting + job.in_flight
    rate_per_s = work.rate.per_s(now_s) if work else 0.0
    return JobProgress(
        items=job.items,
        succeeded=job.succeeded,
        failed=job.failed,
        waiting=job.waiting,
        in_flight=job.in_flight,
        images_per_s=round(rate_per_s, 1),
        eta_s=round(left / rate_per_s, 1) if job.listed and rate_per_s > 0 else None,
    )


def status_of(
    job: Job, work: ActiveJob | None, now_s: float, outputs: list[OutputStatus], sinks: list[SinkStatus]
) -> JobStatus:
    """Return the status of a job that clients get."""
    state, detail = shown(job, work)
    return JobStatus(
        **dict(progress_of(job, work, now_s)),
        job_id=job.spec.id,
        state=state,
        detail=detail,
        owner=job.owner,
        source=job.source,
        tags=job.spec.tags,
        listed=job.listed,
        errors=job.errors,
        detections=job.detections,
        units=job.units,
        models=job.models,
        created_at_s=job.created_at_s,
        started_at_s=job.started_at_s,
        finished_at_s=job.finished_at_s,
        expires_at_s=job.expires_at_s,
        outputs=outputs,
        sinks=sinks,
    )
