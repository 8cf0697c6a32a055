"""The intake of tasks from a Celery queue: a task becomes a job, and the end of the job becomes the task's result.

A task comes in through ``JobInlet``, ``Intake``, ``jobs.celery_tasks``, ``Supervision.create_for_task`` and the store.
Its result goes back through ``JobStore.finished_tasks``, ``Intake.finished`` and ``JobInlet._return_results``.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from serve_app.errors import Conflict, Expired, NotFound, ServeAppError
from serve_app.jobs.celery_tasks import DETECT, FinishedTask, TaskKind, detect_job, job_id_of, whole_job
from serve_app.jobs.store import JobStore, TaskRow
from serve_app.jobs.supervision import Supervision
from serve_app.schemas.jobs import JobStatus
from serve_app.types import Principal

_MAX_FINISHED = 100  # in one answer
# A task's sender gets the result even if ``jobs.celery.owner`` has changed meanwhile.
_SERVER = Principal("", is_admin=True)


class Intake:
    """Takes tasks in, and returns what their senders shall get. The jobs belong to ``owner``."""

    def __init__(self, supervision: Supervision, store: JobStore, owner: str | None) -> None:
        self._supervision = supervision
        self._ledger = supervision.ledger
        self._store = store
        self._who = Principal(owner or "", is_admin=owner is None)

    async def take(self, task_id: str, kind: TaskKind, arguments: dict[str, Any]) -> None:
        """Store a task's job. A queue may deliver a task twice, so a task that is stored already is ignored.

        Raise ServeAppError if the job is refused.
        """
        await self._ledger.wait_until_open()
        if await self._ledger.call(self._store.has_task, task_id):
            return
        spec = detect_job(task_id, arguments) if kind == DETECT else whole_job(task_id, arguments)
        try:
            await self._supervision.create_for_task(spec, self._who, (task_id, kind))
        except Conflict:
            if not await self._ledger.call(self._store.has_task, task_id):  # stored meanwhile by another call
                raise

    async def cancel(self, job_id: str) -> JobStatus:
        """Cancel the job of a task. Raise NotFound if there is no such job."""
        return await self._supervision.cancel(job_id_of(job_id), self._who)

    async def finished(self, within_s: float) -> list[FinishedTask]:
        """Wait up to ``within_s`` seconds for tasks whose jobs have ended, and return some of them."""
        await self._ledger.wait_until_open()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    self._supervision.ended.clear()
                    if rows := await self._ledger.call(self._store.finished_tasks, _MAX_FINISHED):
                        return [await self._finished(row) for row in rows]
                    await self._supervision.ended.wait()
        return []

    async def forget(self, task_ids: list[str]) -> None:
        """Note that these tasks' results are in the backend, and delete the jobs of single images.

        This runs to its end even if the caller dies.
        """
        await self._ledger.complete(self._forget(task_ids))

    async def _forget(self, task_ids: list[str]) -> None:
        rows = {row.task_id: row for row in await self._ledger.call(self._store.finished_tasks, _MAX_FINISHED)}
        await self._ledger.call(self._store.set_tasks_sent, task_ids)
        for task_id in task_ids:
            row = rows.get(task_id)
            if row and row.job_id and row.kind == DETECT:
                with suppress(ServeAppError):
                    await self._supervision.delete(row.job_id, _SERVER)

    async def _finished(self, row: TaskRow) -> FinishedTask:
        """Return what a task's sender gets. A job that is gone is an answer, too, and must not hold up other tasks."""
        if row.job_id is None:
            return FinishedTask(row.task_id, False, "null", "not_found: the job was deleted")
        try:
            return await self._finished_job(row, row.job_id)
        except (NotFound, Expired) as exc:
            return FinishedTask(row.task_id, False, "null", f"{exc.code}: {exc.detail}")

    async def _finished_job(self, row: TaskRow, job_id: str) -> FinishedTask:
        status = await self._supervision.status(job_id, _SERVER)
        if row.kind != DETECT:
            problem = "" if status.state == "completed" else f"{status.state}: {status.detail}"
            return FinishedTask(row.task_id, not problem, status.model_dump_json(), problem)
        for answered in await self._ledger.call(self._store.answered, job_id, limit=1):
            if answered.json is not None:
                return FinishedTask(row.task_id, True, answered.json)
            if answered.failure is not None:
                failure = answered.failure
                return FinishedTask(row.task_id, False, "null", f"{failure.code}: {failure.detail}")
        return FinishedTask(row.task_id, False, "null", f"{status.state}: {status.detail or 'there is no image'}")
