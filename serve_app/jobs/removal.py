"""The removal of jobs. All that belongs to a job is gone before another job can have its id."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from serve_app.errors import NotFound, ServeAppError
from serve_app.jobs.board import Board
from serve_app.jobs.files import JobFiles
from serve_app.jobs.finishing import Finishing
from serve_app.jobs.store import Job, JobStore

logger = logging.getLogger(__name__)

_EXPIRY_INTERVAL_S = 60.0


class Removal:
    """Removes jobs whose time is over, and jobs that clients delete.

    Jobs are added only while ``lock`` is held.
    """

    def __init__(self, board: Board, finishing: Finishing, files: JobFiles) -> None:
        self.lock = asyncio.Lock()
        self._board = board
        self._ledger = board.ledger
        self._store = board.ledger.store
        self._finishing = finishing
        self._files = files

    async def remove(self, job: Job) -> None:
        """Stop a job, and forget it with all its files.

        Raise NotFound if the job was removed meanwhile, even if a new job has its id now.
        """
        job_id = job.spec.id
        if work := self._board.works.get(job_id):
            self._board.drop(work)
            await self._board.stop(work)
            await work.uploaded()
        async with self.lock:
            if (await self._ledger.call(self._store.job, job_id)).created_at_s != job.created_at_s:
                raise NotFound(f"job {job_id!r} does not exist")
            await self._ledger.call(self._store.delete, job_id)
            if work := self._board.works.get(job_id):  # it was retried meanwhile
                self._board.drop(work)
                await self._board.stop(work)
            await self._forget(job_id)
        await asyncio.to_thread(self._files.empty_trash)

    async def sweep(self) -> None:
        """Put files of jobs whose items are no longer kept into the trash: a supervisor was killed before it did so.

        If the store has no job at all, keep the files, because someone has perhaps moved the store away.
        """
        try:
            names = await asyncio.to_thread(self._files.job_ids)
        except OSError as exc:
            logger.warning("the files of deleted jobs cannot be found: %s; check the folder of state", exc)
            return
        for name in await self._ledger.call(_not_kept, self._store, names):
            logger.warning("the files of job %s are deleted, because its items are no longer kept", name)
            await asyncio.to_thread(self._files.trash, name)

    async def clear(self, job_id: str) -> None:
        """Put files that an earlier job with this id has left into the trash. Call this while ``lock`` is held."""
        await asyncio.to_thread(self._files.trash, job_id)

    async def run(self) -> None:
        """Remove jobs whose time is over, indefinitely."""
        await asyncio.to_thread(self._files.empty_trash)
        while True:
            try:
                async with self.lock:
                    job_ids = await self._ledger.call(self._store.expire, time.time())
                    await asyncio.gather(*map(self._forget, job_ids))
                if job_ids:
                    await asyncio.to_thread(self._files.empty_trash)
            except ServeAppError as exc:
                logger.warning("old jobs cannot be deleted now: %s", exc.detail)
            await asyncio.sleep(_EXPIRY_INTERVAL_S)

    async def _forget(self, job_id: str) -> None:
        self._finishing.forget(job_id)
        await asyncio.to_thread(self._files.trash, job_id)
        await self._board.feeds.forget(job_id)


def _not_kept(store: JobStore, job_ids: Sequence[str]) -> list[str]:
    """Return those ids that no job with items has, or none if there is no job at all."""
    not_kept: list[str] = []
    if not store.jobs(limit=1):
        return not_kept
    for job_id in job_ids:
        try:
            if store.job(job_id).state == "expired":
                not_kept.append(job_id)
        except NotFound:
            not_kept.append(job_id)
    return not_kept
