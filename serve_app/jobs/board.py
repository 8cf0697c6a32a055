"""The unfinished jobs, and their changes of state.

Creation, retry and expiry change the state directly in the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from serve_app.errors import NotFound, ServeAppError
from serve_app.jobs.active import ActiveJob
from serve_app.jobs.feeds import Feeds
from serve_app.jobs.ledger import Ledger
from serve_app.jobs.store import Job
from serve_app.schemas.jobs import AT_REST, JobState

logger = logging.getLogger(__name__)

_END_TIMEOUT_S = 4.0  # for calls of runners that are cancelled
_END_PAUSE_S = 2.0  # before a job is ended again whose end could not be stored


class Board:
    """The unfinished jobs, in memory and in the store. ``changed`` wakes the dispatch."""

    def __init__(self, ledger: Ledger, feeds: Feeds) -> None:
        self.ledger = ledger
        self.feeds = feeds
        self.works: dict[str, ActiveJob] = {}
        self.changed = asyncio.Event()
        self.ended = asyncio.Event()  # set when a job has ended
        self._stopping: set[ActiveJob] = set()  # the jobs whose tasks are being cancelled

    def add(self, job: Job) -> ActiveJob:
        """Add a job that is not at rest."""
        work = self.works[job.spec.id] = ActiveJob(job)
        self.feeds.open(job)
        self.changed.set()
        return work

    def drop(self, work: ActiveJob) -> None:
        """Remove a job that is at rest or deleted, unless another one has its id now."""
        work.is_ended = True
        if self.has(work):
            del self.works[work.id]
        self.changed.set()

    def has(self, work: ActiveJob) -> bool:
        """Return whether a job is unfinished. One whose end is being stored is unfinished, because this may fail."""
        return self.works.get(work.id) is work

    async def set_state(self, work: ActiveJob, state: JobState, detail: str = "") -> None:
        """Change a job's state in the store and in memory, and wake the clients that wait for it.

        A job that has ended keeps its state, and a job that is being cancelled can only end.
        """
        if (work.is_ended or work.job.state == "cancelling") and state not in AT_REST | {"cancelling"}:
            return
        if (work.job.state, work.job.detail) != (state, detail):
            if state in AT_REST:
                await self.feeds.flush(work)
            work.update(await self.ledger.call(self.ledger.store.set_state, work.id, state, time.time(), detail))
            self.feeds.notify(work.job)
        work.unstored_block = ""

    async def block(self, work: ActiveJob, detail: str) -> None:
        """Set a job's state to ``blocked``, with the reason. Show the reason even if the state cannot be stored.

        A job that is being cancelled only shows the reason.
        """
        try:
            if work.job.state != "cancelling":
                await self.set_state(work, "blocked", detail)
                return
            logger.warning("job %s cannot be cancelled now: %s", work.id, detail)
        except ServeAppError as exc:
            logger.warning("job %s is blocked: %s (%s)", work.id, detail, exc.detail)
        work.unstored_block = detail

    async def end(self, work: ActiveJob, state: JobState, detail: str = "") -> None:
        """End a job: stop all that is done for it, and set its last state."""
        if work.is_ended:
            return
        work.is_ended = True
        try:
            if state == "cancelled":
                await self.set_state(work, "cancelling")
                await self.stop(work)
            await self.set_state(work, state, detail)
        except ServeAppError:
            if self.has(work):
                work.is_ended = False  # the disk is full, for example: the caller tries again
            raise
        # The job can be retried from this moment on, even while its old tasks end. The store refuses their results.
        self.drop(work)
        self.ended.set()
        if state != "cancelled":
            await self.stop(work)

    async def bring_to_end(self, work: ActiveJob, state: JobState, detail: str = "") -> None:
        """End a job. Try again as long as the store refuses the change, for example because the disk is full."""
        while self.has(work):
            try:
                await self.end(work, state, detail)
            except NotFound:
                return  # the job was deleted
            except ServeAppError as exc:
                await self.block(work, f"{exc.code}: {exc.detail}")
            if self.has(work):  # the store has refused the change, or another change is in progress
                await asyncio.sleep(_END_PAUSE_S)

    async def stop(self, work: ActiveJob) -> None:
        """Cancel all tasks of a job, and wait a few seconds until they have ended."""
        tasks = work.tasks - {asyncio.current_task()}  # a task may end its own job
        for task in tasks:
            task.cancel()
        if tasks:
            self._stopping.add(work)
            try:
                await asyncio.wait(tasks, timeout=_END_TIMEOUT_S)
            finally:
                self._stopping.discard(work)

    async def close(self) -> None:
        """Cancel all tasks of all jobs, also of those that have just ended."""
        await asyncio.gather(*(self.stop(work) for work in {*self.works.values(), *self._stopping}))

    def run_task(self, work: ActiveJob, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Run a task of a job. An error of the task is a bug, which is logged."""
        task = asyncio.create_task(coroutine, name=f"{name} of job {work.id}")
        work.tasks.add(task)
        task.add_done_callback(lambda done: self._done(work, done))

    def _done(self, work: ActiveJob, task: asyncio.Task[None]) -> None:
        work.tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()):
            logger.error("%s failed", task.get_name(), exc_info=exc)
        self.changed.set()
