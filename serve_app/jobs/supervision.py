"""The supervision, which creates, changes and watches all jobs, and brings them to their end.

This module does not depend on Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from serve_app.config import AppArgs
from serve_app.errors import Conflict, Expired, Forbidden, NotFinished, NotFound, Overloaded, ServeAppError
from serve_app.jobs.active import ActiveJob, shown, status_of
from serve_app.jobs.admission import check_spec
from serve_app.jobs.board import Board
from serve_app.jobs.dispatch import Dispatch, Runners
from serve_app.jobs.feeds import Feeds
from serve_app.jobs.files import JobFiles
from serve_app.jobs.finishing import Finishing, StoredResults
from serve_app.jobs.ledger import Ledger, uninterrupted
from serve_app.jobs.listing import Listing
from serve_app.jobs.removal import Removal
from serve_app.jobs.store import Answered, Job, JobStore
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
    UploadSource,
)
from serve_app.telemetry.metrics import Telemetry
from serve_app.types import EventPage, Principal

logger = logging.getLogger(__name__)

_METRICS_INTERVAL_S = 5.0  # Ray drops a gauge 20 s after it was last recorded
_PAGE = 100


class Supervision:
    """Brings all jobs to their end, and handles the clients' requests for jobs.

    When the supervision ends, the units that runners work on are lost. The next supervision begins them again. Only one
    process at a time can hold the store. The operations and their errors are documented in ``api.backend.Jobs``.
    """

    def __init__(self, store: JobStore, runners: Runners, args: AppArgs, folder: Path, telemetry: Telemetry) -> None:
        """Start supervising as soon as no other process holds the store. ``folder`` has the jobs' own folders."""
        self.ledger = Ledger(store)
        self._store = store
        self._runners = runners
        self._args = args
        self._telemetry = telemetry
        self._files = JobFiles(folder, int(args.jobs.max_disk_gib * 2**30), store.size_bytes)
        self._feeds = Feeds(self.ledger, args.outbound.guard())
        self._board = Board(self.ledger, self._feeds)
        self._finishing = Finishing(self._board, args, self._files)
        self._listing = Listing(self._board, args, folder)
        self.ended = self._board.ended
        self._dispatch = Dispatch(self._board, runners, telemetry, self._finishing.begin, self._files.check_space)
        self._removal = Removal(self._board, self._finishing, self._files)
        self._reported: set[str] = set()  # the states that the metrics show
        self._tasks = [asyncio.create_task(self._take_over(), name="take-over of jobs")]

    @uninterrupted
    async def create(self, spec: JobSpec, who: Principal) -> JobStatus:
        """Add a job, and begin to work on it."""
        await self.ledger.wait_until_open()
        return await self._create(spec, who)

    @uninterrupted
    async def put(self, spec: JobSpec, who: Principal) -> tuple[JobStatus, bool]:
        """Add a job unless the same job is there already."""
        await self.ledger.wait_until_open()
        try:
            return await self._create(spec, who), True
        except Conflict:
            job = await self.ledger.call(self._store.job, spec.id)
            if not who.may_see(job.owner) or _comparable(job.spec) != _comparable(spec):
                raise
            return self._status(job), False

    async def all(
        self, who: Principal, *, state: JobState | None, tag: str | None, after: str | None, limit: int
    ) -> JobList:
        """Return the status of the newest jobs."""
        await self.ledger.wait_until_open()
        if after is not None:
            await self._find(after, who)
        owner = None if who.is_admin else who.name
        jobs = await self.ledger.call(self._store.jobs, owner=owner, state=state, tag=tag, after=after, limit=limit + 1)
        following = jobs[limit - 1].spec.id if len(jobs) > limit else None
        return JobList(jobs=[self._status(job) for job in jobs[:limit]], next=following)

    async def status(self, job_id: str, who: Principal) -> JobStatus:
        """Return the status of a job."""
        return self._status(await self._find(job_id, who))

    async def items(self, job_id: str, who: Principal, *, state: str | None, after: int | None, limit: int) -> JobItems:
        """Return a page of the items that are done."""
        await self._find_kept(job_id, who)
        found = await self.ledger.call(self._store.answered, job_id, after=after, limit=limit + 1, state=state)
        following = found[limit - 1].item if len(found) > limit else None
        return JobItems(items=await asyncio.to_thread(_parsed, found[:limit]), next=following)

    @uninterrupted
    async def cancel(self, job_id: str, who: Principal) -> JobStatus:
        """End a job before its items are done."""
        await self._find(job_id, who)
        if work := self._board.works.get(job_id):
            async with work.lock:
                try:
                    await self._board.end(work, "cancelled")
                except ServeAppError:
                    if work.job.state == "cancelling":  # its tasks have ended, so only the end is left
                        self._begin_cancelling(work)
                    raise
        return await self.status(job_id, who)

    @uninterrupted
    async def pause(self, job_id: str, who: Principal) -> JobStatus:
        """Start no new work of a job. What runners are working on is stored."""
        return await self._set_paused(job_id, who, paused=True)

    @uninterrupted
    async def resume(self, job_id: str, who: Principal) -> JobStatus:
        """Continue a paused job."""
        return await self._set_paused(job_id, who, paused=False)

    @uninterrupted
    async def retry(self, job_id: str, who: Principal, retry: Retry) -> JobStatus:
        """Try failed items again."""
        job = await self._find_kept(job_id, who)
        if job.state == "cancelling":
            raise Conflict(f"job {job_id!r} is being cancelled; retry when it is cancelled")
        codes = None if retry.items == "failed" else retry.items
        job = await self.ledger.call(self._store.retry, job_id, codes, time.time())
        if work := self._board.works.get(job_id):
            work.update(job)
            work.may_have_open = True
            work.resumed.set()
            self._board.changed.set()
        else:
            self._begin(job)
        self._feeds.notify(job)
        return self._status(job)

    @uninterrupted
    async def delete(self, job_id: str, who: Principal) -> None:
        """Stop a job, and forget it with all its files."""
        job = await self._find(job_id, who)
        try:
            await self._removal.remove(job)
        except ServeAppError:
            await self._begin_again(job_id)
            raise
        self.ended.set()

    @uninterrupted
    async def set_owner(self, job_id: str, who: Principal, owner: str) -> JobStatus:
        """Give a job without an owner an owner."""
        await self._find(job_id, who)
        if not who.is_admin:
            raise Forbidden("only a key with the scope admin may give a job an owner")
        job = await self.ledger.call(self._store.set_owner, job_id, owner)
        if work := self._board.works.get(job_id):
            work.update(job)
        return self._status(job)

    async def results(self, job_id: str, who: Principal, kind: Format) -> FileInfo:
        """Make the file of a finished job's results, and return its size and hash."""
        job = await self._find_kept(job_id, who)
        if job.state not in AT_REST:
            raise NotFinished(f"job {job_id!r} is {job.state}; wait until it ends")
        return await self._files.results(job, kind, StoredResults(self._store, job_id))

    async def read_results(self, job_id: str, who: Principal, kind: Format, offset: int, size: int) -> bytes:
        """Return a piece of the file of ``results``."""
        await self._find_kept(job_id, who)
        return await asyncio.to_thread(self._files.read, job_id, kind, offset, size)

    @uninterrupted
    async def put_file(self, job_id: str, who: Principal, name: str, offset: int, data: bytes, *, last: bool) -> None:
        """Add a piece to an uploaded file."""
        await self._find(job_id, who)
        work = self._board.works.get(job_id)
        if work is None or work.is_ended or work.job.state != "collecting":
            raise Conflict(f"job {job_id!r} takes no more files, because it has started or ended")
        await work.upload(asyncio.to_thread(self._files.put, job_id, name, offset, data, last=last))

    @uninterrupted
    async def start(self, job_id: str, who: Principal) -> JobStatus:
        """Start a job whose files are uploaded."""
        await self._find(job_id, who)
        work = self._board.works.get(job_id)
        if work is None:
            raise Conflict(f"job {job_id!r} has ended already")
        async with work.lock:
            if work.is_ended or work.job.state != "collecting":
                raise Conflict(f"job {job_id!r} has started already")
            await self._board.set_state(work, work.active_state)
            await work.uploaded()
            self._listing.begin(work)
        return self._status(work.job)

    async def picture(self, job_id: str, who: Principal, item: int, *, boxes: bool) -> bytes:
        """Return the image of an item as a JPEG."""
        job = await self._find_kept(job_id, who)
        unit, answered = await self.ledger.call(self._store.find, job_id, item)
        result = answered.json if answered and boxes else None
        return await self._runners.picture(unit, job.spec, item, result)

    async def events(self, job_id: str, who: Principal, after: int | None, within_s: float) -> EventPage:
        """Wait for events of a job and return them. Return an empty page after ``within_s`` seconds."""
        await self._find(job_id, who)
        return await self._feeds.page(job_id, after, within_s)

    def check(self) -> None:
        """Raise the error of any background task that has failed."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """Stop supervising. Call ``close`` afterwards."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._board.close()
        await self._feeds.close()

    async def close(self) -> None:
        """Wait for the changes in progress, and unlock the store for another process."""
        await self.ledger.close()

    async def _take_over(self) -> None:
        await self.ledger.acquire()
        for job in await self.ledger.call(self._store.unfinished):
            self._begin(job)
        await self._removal.sweep()
        self.ledger.allow_calls()
        loops = self._dispatch.run(), self._feeds.report_progress(), self._removal.run(), self._record()
        self._tasks += [asyncio.create_task(loop) for loop in loops]
        await self._open_feeds()

    def _begin(self, job: Job) -> None:
        """Continue a job, wherever it stands."""
        work = self._board.add(job)
        if job.state == "cancelling":
            self._begin_cancelling(work)
        elif job.state != "collecting" and not job.listed:
            self._listing.begin(work)

    def _begin_cancelling(self, work: ActiveJob) -> None:
        self._board.run_task(work, self._board.bring_to_end(work, "cancelled"), "the cancelling")

    async def _begin_again(self, job_id: str) -> None:
        """Continue an unfinished job that could not be deleted."""
        with suppress(NotFound):
            job = await self.ledger.call(self._store.job, job_id)
            if job.state not in AT_REST and job_id not in self._board.works:
                self._begin(job)

    async def _open_feeds(self) -> None:
        """Send the events of jobs that ended shortly before the last supervisor ended."""
        after: str | None = None
        while jobs := await self.ledger.call(self._store.jobs, after=after, limit=_PAGE):
            for job in jobs:
                if job.spec.sinks and job.state in AT_REST - {"expired"}:
                    self._feeds.open(job)
            after = jobs[-1].spec.id

    @uninterrupted
    async def create_for_task(self, spec: JobSpec, who: Principal, task: tuple[str, str]) -> JobStatus:
        """Add the job of a Celery task, which is given by its id and its kind."""
        await self.ledger.wait_until_open()
        return await self._create(spec, who, task)

    async def _create(self, spec: JobSpec, who: Principal, task: tuple[str, str] | None = None) -> JobStatus:
        await self._check_free(spec.id)
        check_spec(spec, self._args)
        await asyncio.to_thread(self._files.check_space)
        source, units = await self._listing.prepare(spec)
        state: JobState = "paused" if spec.paused else "queued"
        if isinstance(spec.source, UploadSource):
            state = "collecting"
        async with self._removal.lock:  # held from counting the jobs until the new one is stored
            await self._check_free(spec.id)
            await self._check_counts(who)
            await self._removal.clear(spec.id)
            job = await self.ledger.call(
                self._store.create,
                spec,
                owner=who.owner,
                source=source,
                state=state,
                now_s=time.time(),
                units=units or (),
                listed=units is not None,
                task=task,
            )
        self._begin(job)
        return self._status(job)

    async def _check_free(self, job_id: str) -> None:
        with suppress(NotFound):
            await self.ledger.call(self._store.job, job_id)
            raise Conflict(f"job {job_id!r} already exists")

    async def _check_counts(self, who: Principal) -> None:
        """Raise Overloaded if there are too many jobs that have not ended."""
        args = self._args.jobs
        if (count := await self.ledger.call(self._store.count_unfinished)) >= args.max_jobs:
            raise Overloaded(
                f"jobs.max_jobs: {count} jobs have not ended and {args.max_jobs} are allowed; wait, cancel a job or "
                "raise the limit",
                limit="jobs.max_jobs",
            )
        if who.owner is None:
            return
        if (count := await self.ledger.call(self._store.count_unfinished, who.owner)) >= args.max_open_per_key:
            raise Overloaded(
                f"jobs.max_open_per_key: {count} jobs of this key have not ended and {args.max_open_per_key} are "
                "allowed; wait, cancel a job or raise the limit",
                limit="jobs.max_open_per_key",
            )

    async def _set_paused(self, job_id: str, who: Principal, *, paused: bool) -> JobStatus:
        await self._find(job_id, who)
        work = self._board.works.get(job_id)
        if work is None or work.is_ended or work.is_finishing:
            raise Conflict(f"job {job_id!r} has ended, or is about to end, so it can be neither paused nor resumed")
        async with work.lock:
            if not work.is_ended and not work.is_finishing and work.job.spec.paused != paused:
                work.update(await self.ledger.call(self._store.set_paused, job_id, paused))
                if work.job.state != "collecting":
                    await self._board.set_state(work, work.active_state)
                (work.resumed.clear if paused else work.resumed.set)()
                self._board.changed.set()
        return await self.status(job_id, who)

    async def _find(self, job_id: str, who: Principal) -> Job:
        """Return a job. Raise NotFound if there is no such job, or if ``who`` may not see it."""
        await self.ledger.wait_until_open()
        absent = f"job {job_id[:64]!r} does not exist"
        try:
            job = await self.ledger.call(self._store.job, job_id)
        except NotFound as exc:
            raise NotFound(absent) from exc
        if not who.may_see(job.owner):
            raise NotFound(absent)
        return job

    async def _find_kept(self, job_id: str, who: Principal) -> Job:
        """Return a job whose items are still kept. Raise Expired if they are not."""
        job = await self._find(job_id, who)
        if job.state == "expired":
            raise Expired(f"job {job_id!r} has expired, and only its counts are kept")
        return job

    def _status(self, job: Job) -> JobStatus:
        return status_of(
            job,
            self._board.works.get(job.spec.id),
            asyncio.get_running_loop().time(),
            self._finishing.output_statuses(job),
            self._feeds.sinks(job.spec.id),
        )

    async def _record(self) -> None:
        """Record the gauges of the unfinished jobs, all jobs together."""
        while True:
            jobs = Counter(str(shown(work.job, work)[0]) for work in self._board.works.values())
            if jobs or self._reported:
                items: Counter[str] = Counter()
                for work in self._board.works.values():
                    items += Counter(waiting=work.job.waiting, in_flight=work.job.in_flight)
                self._telemetry.jobs({state: jobs[state] for state in self._reported | set(jobs)}, items)
                self._reported = set(jobs)
            await asyncio.sleep(_METRICS_INTERVAL_S)


def _comparable(spec: JobSpec) -> JobSpec:
    """Return a specification without what ``pause`` and ``resume`` change."""
    return spec.model_copy(update={"paused": False})


def _parsed(found: list[Answered]) -> list[JobResult | JobFailure]:
    return [one.failure or JobResult.model_validate_json(one.json or "") for one in found]
