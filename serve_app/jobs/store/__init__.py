"""The store of jobs: one SQLite file, which only one process may open.

A unit's results and its state are written in one transaction. A job's counters are written in the same transaction, so
they are exact whatever process dies.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from serve_app.jobs.store import answers, celery_tasks, events, jobs, states
from serve_app.jobs.store import units as unit_rows
from serve_app.jobs.store.database import Database
from serve_app.jobs.store.records import Answered, Job, TaskRow
from serve_app.jobs.units import Failed, NewUnit, Unit, UnitResult
from serve_app.schemas.jobs import JobFailure, JobSpec, JobState
from serve_app.types import Event

__all__ = ["Answered", "Job", "JobStore", "TaskRow"]


class JobStore:
    """The jobs, their units, their results and their events. All methods block, and threads take turns.

    Each method but ``results`` and ``failures`` is one transaction. It raises NoSpace if the disk is full, and
    Unavailable if the file cannot be written. Methods that take a ``job_id`` raise NotFound if no job has this id.
    Methods that read items or try them again raise Expired if only the job's counters are kept.
    """

    def __init__(self, folder: Path) -> None:
        """Create the folder. Call ``acquire`` before any other method."""
        self._database = Database(folder)

    def acquire(self) -> bool:
        """Lock the store, open it, and take back all units that are out. Return False if another process holds it.

        Migrate an older schema. Raise StartError if the file has a newer schema or is damaged.
        """
        return self._database.acquire(unit_rows.take_back_all)

    def close(self) -> None:
        """Close the file, and unlock the store."""
        self._database.close()

    def size_bytes(self) -> int:
        """Return how many bytes of the disk the jobs and their results need, without the space that can be reused."""
        with self._database.reading() as db:
            return db.size_bytes()

    # Jobs

    def create(
        self,
        spec: JobSpec,
        *,
        owner: str | None,
        source: str,
        state: JobState,
        now_s: float,
        units: Sequence[NewUnit] = (),
        listed: bool = False,
        task: tuple[str, str] | None = None,
    ) -> Job:
        """Add a job, with units if they are known already. The job is on the disk when this method returns.

        ``task`` is the id and the kind of the Celery task from which the job comes. Raise Conflict if the job's id is
        taken.
        """
        with self._database.transaction() as db:
            jobs.insert(db, spec, owner, source, state, now_s)
            if task is not None:
                celery_tasks.insert(db, *task, spec.id, now_s)
            unit_rows.add(db, spec.id, units, None, listed)
            return jobs.read(db, spec.id)

    def job(self, job_id: str) -> Job:
        """Return the job with this id."""
        with self._database.reading() as db:
            return jobs.read(db, job_id)

    def jobs(
        self,
        *,
        owner: str | None = None,
        state: JobState | None = None,
        tag: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[Job]:
        """Return jobs, the newest first, that were made before the job ``after``.

        With ``owner``, return only jobs of this owner and jobs without an owner. ``tag`` is ``key`` or ``key=value``.
        """
        with self._database.reading() as db:
            return jobs.page(db, owner, state, tag, after, limit)

    def unfinished(self) -> list[Job]:
        """Return all jobs that are not at rest, the oldest first."""
        with self._database.reading() as db:
            return jobs.unfinished(db)

    def count_unfinished(self, owner: str | None = None) -> int:
        """Return how many jobs are not at rest: of an owner, or of all."""
        with self._database.reading() as db:
            return jobs.count_unfinished(db, owner)

    def set_state(self, job_id: str, state: JobState, now_s: float, detail: str = "") -> Job:
        """Change a job's state, add an event of type ``state``, and return the job.

        The first change to ``running`` sets ``started_at_s``. A change to a state at rest sets ``finished_at_s`` and
        ``expires_at_s``. Nothing changes if the job has this state and detail already.
        """
        with self._database.transaction() as db:
            states.change(db, job_id, state, now_s, detail)
            return jobs.read(db, job_id)

    def set_owner(self, job_id: str, owner: str) -> Job:
        """Give a job without an owner an owner. Raise Conflict if it has one."""
        with self._database.transaction() as db:
            jobs.set_owner(db, job_id, owner)
            return jobs.read(db, job_id)

    def set_paused(self, job_id: str, paused: bool) -> Job:
        """Store in the specification whether the job is paused."""
        with self._database.transaction() as db:
            jobs.set_paused(db, job_id, paused)
            return jobs.read(db, job_id)

    def delete(self, job_id: str) -> None:
        """Forget a job and all that belongs to it."""
        with self._database.transaction() as db:
            states.forget(db, job_id)

    def expire(self, now_s: float) -> list[str]:
        """Forget the units, results and events of jobs whose time is over, and set their state to ``expired``.

        Return their ids, so that the caller can delete their folders. The counters stay for another 30 days, and then
        the job is forgotten. One call handles 100 jobs of each kind at most.
        """
        with self._database.transaction() as db:
            celery_tasks.expire(db, now_s)
            return states.expire(db, now_s)

    # Units

    def add_units(self, job_id: str, units: Sequence[NewUnit], *, cursor: str | None, listed: bool) -> Job:
        """Add units to the end of a job, together with the position at which the listing continues.

        Add nothing if the job is at rest or cancelling. The caller checks the limit ``jobs.max_items``.
        """
        with self._database.transaction() as db:
            unit_rows.add(db, job_id, units, cursor, listed)
            return jobs.read(db, job_id)

    def claim(self, job_id: str, limit: int, now_s: float) -> list[Unit]:
        """Take up to ``limit`` open units out, in order. Units whose pause is not over stay open."""
        with self._database.transaction() as db:
            return unit_rows.claim(db, job_id, limit, now_s)

    def commit(self, result: UnitResult, now_s: float) -> bool:
        """Store what a runner has done, and update the job's counters, all in one transaction.

        Items that were deferred stay to be done: the unit becomes open again, not before ``retry_after_s``. Store
        nothing and return False if the unit is not out in this attempt, or if the job is at rest or cancelling. Raise
        ValueError if the result is not for exactly the items that the unit still has to do. The result of a clip may
        also have frames that are answered already: their answers stay as they are.
        """
        with self._database.transaction() as db:
            return unit_rows.commit(db, result, now_s)

    def release(self, unit: Unit, now_s: float, *, suspect: bool, pause_s: float = 0.0) -> list[Failed]:
        """Give a unit back that a runner has not done. Return the items that have failed thereby.

        ``suspect`` says that the unit may be the cause: the runner died, or its result was wrong.

        A unit that may be the cause is suspect. After two deaths, its images are claimed one at a time, and after
        two more deaths, the image that was claimed fails as ``poison``. A clip fails after four deaths.
        """
        with self._database.transaction() as db:
            return unit_rows.release(db, unit, now_s, suspect=suspect, pause_s=pause_s)

    def take_back(self, job_id: str) -> Job:
        """Open the units of a job again that are out, because nobody waits for their results."""
        with self._database.transaction() as db:
            unit_rows.take_back(db, jobs.number_of(db, job_id))
            return jobs.read(db, job_id)

    def next_pause_s(self, job_id: str, now_s: float) -> float | None:
        """Return how many seconds the first paused unit still has to wait, or None if there is none."""
        with self._database.reading() as db:
            return unit_rows.next_pause_s(db, job_id, now_s)

    def retry(self, job_id: str, codes: Collection[str] | None, now_s: float) -> Job:
        """Open the units of failed items again, for those items alone, and set the job's state to ``running``.

        Units that were open stay open. The job is no longer paused.

        ``codes`` are the errors' codes; None means all. Items of units that are out stay as they are. Raise Conflict
        unless the job is at rest or running.
        """
        with self._database.transaction() as db:
            states.retry(db, job_id, codes, now_s)
            return jobs.read(db, job_id)

    # Results

    def answered(
        self, job_id: str, *, after: int | None = None, limit: int = 1000, state: str | None = None
    ) -> list[Answered]:
        """Return the items with a number above ``after`` that are done, by number.

        ``state`` is ``succeeded``, ``failed`` or None for both.
        """
        with self._database.reading() as db:
            return answers.page(db, job_id, after, limit, state)

    def results(self, job_id: str) -> Iterator[str]:
        """Yield the JSON of each item that succeeded, by the item's number. Other methods may be called meanwhile."""
        return answers.stream_results(self._database, job_id)

    def failures(self, job_id: str) -> Iterator[JobFailure]:
        """Yield each item that failed, by the item's number."""
        return answers.stream_failures(self._database, job_id)

    def find(self, job_id: str, item: int) -> tuple[Unit, Answered | None]:
        """Return the unit of an item, and the result if there is one. Raise NotFound if there is no such item."""
        with self._database.reading() as db:
            return answers.find(db, job_id, item)

    # Events and messages to others

    def add_event(self, job_id: str, kind: str, body: str, now_s: float) -> Event:
        """Add an event to a job's log. ``body`` is a JSON object. The newest 512 events are kept."""
        with self._database.transaction() as db:
            return events.add(db, job_id, kind, body, now_s)

    def events(self, job_id: str, after: int | None, limit: int = 128) -> tuple[list[Event], int, int]:
        """Return events above ``after``, the id of the newest event (or -1), and how many events are no longer kept."""
        with self._database.reading() as db:
            return events.page(db, job_id, after, limit)

    def delivered(self, job_id: str, sink: int, event_id: int) -> None:
        """Store that a sink has sent the events up to ``event_id``."""
        with self._database.transaction() as db:
            events.set_delivered(db, job_id, sink, event_id)

    def last_delivered(self, job_id: str, sink: int) -> int:
        """Return the id of the last event that a sink has sent, or -1."""
        with self._database.reading() as db:
            return events.last_delivered(db, job_id, sink)

    def has_task(self, task_id: str) -> bool:
        """Return whether a Celery task was stored before."""
        with self._database.reading() as db:
            return celery_tasks.exists(db, task_id)

    def finished_tasks(self, limit: int) -> list[TaskRow]:
        """Return Celery tasks whose jobs are at rest or were deleted, and whose results were not sent."""
        with self._database.reading() as db:
            return celery_tasks.finished(db, limit)

    def set_tasks_sent(self, task_ids: Sequence[str]) -> None:
        """Store that the results of these Celery tasks were sent."""
        with self._database.transaction() as db:
            celery_tasks.set_sent(db, task_ids)
