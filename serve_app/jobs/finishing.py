"""The finishing of jobs: their outputs are written when all items are done."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from serve_app.config import AppArgs
from serve_app.errors import NoSpace, NotFound, ServeAppError, Unavailable
from serve_app.jobs.active import ActiveJob
from serve_app.jobs.board import Board
from serve_app.jobs.files import JobFiles
from serve_app.jobs.outputs import file_count, write_outputs
from serve_app.jobs.store import Job, JobStore
from serve_app.schemas.jobs import JobFailure, OutputStatus

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 2.0  # before an output is written again that could not be written; it doubles
_MAX_PAUSE_S = 60.0

T = TypeVar("T")


@dataclass(frozen=True)
class StoredResults:
    """The results of a job in the store, for a thread that writes outputs. See ``outputs.Results``.

    ``check`` is called before each item. An error that it raises ends the reading.
    """

    store: JobStore
    job_id: str
    check: Callable[[], None] = lambda: None

    def results(self) -> Iterator[str]:
        """Yield the JSON of each item that succeeded."""
        return self._checked(self.store.results(self.job_id))

    def failures(self) -> Iterator[JobFailure]:
        """Yield each item that failed."""
        return self._checked(self.store.failures(self.job_id))

    def _checked(self, items: Iterator[T]) -> Iterator[T]:
        self.check()
        for item in items:
            self.check()
            yield item


class _Stopped(Exception):
    """Ends a thread that writes outputs for which nobody waits."""


class Finishing:
    """Writes the outputs of jobs."""

    def __init__(self, board: Board, args: AppArgs, files: JobFiles) -> None:
        self._board = board
        self._args = args
        self._files = files
        self._outputs: dict[str, list[OutputStatus]] = {}  # by job; only since this process has started
        self._writing: dict[str, asyncio.Future[None]] = {}  # the threads that write outputs, by job

    def begin(self, work: ActiveJob) -> None:
        """Write the outputs of a job all of whose items are done, and complete the job."""
        if not work.is_finishing:
            work.is_finishing = True
            self._board.run_task(work, self._run(work), "the finishing")

    def output_statuses(self, job: Job) -> list[OutputStatus]:
        """Return the status of a job's outputs. After a restart, a completed job has the same status as before it."""
        is_complete = job.state == "completed"
        return self._outputs.get(job.spec.id) or [
            OutputStatus(uri=one.uri, formats=one.formats, written=file_count(one) if is_complete else 0)
            for one in job.spec.outputs
        ]

    def forget(self, job_id: str) -> None:
        """Forget the status of the outputs of a job whose items are no longer kept."""
        self._outputs.pop(job_id, None)

    async def _run(self, work: ActiveJob) -> None:
        pause_s = _FIRST_PAUSE_S
        while self._board.has(work):
            try:
                await self._board.set_state(work, "finishing")
                if work.job.units.open + work.job.units.out:  # a retry was stored just before this state
                    await self._board.set_state(work, work.active_state)
                    work.is_finishing, work.may_have_open = False, True
                    return
                await self._write(work)
                await self._board.bring_to_end(work, "completed")
                return
            except NotFound:
                return  # the job was deleted
            except (NoSpace, Unavailable) as exc:
                await self._board.block(work, f"{exc.code}: {exc.detail}")
            except Exception as exc:
                if not isinstance(exc, ServeAppError):
                    logger.exception("job %s: the outputs cannot be written", work.id)
                detail = exc.detail if isinstance(exc, ServeAppError) else "the server's log has the reason"
                await self._board.bring_to_end(work, "failed", f"output_unwritable: {detail}")
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    async def _write(self, work: ActiveJob) -> None:
        """Write the outputs in a thread. If this is cancelled, the thread ends as soon as it can."""
        spec, is_stopped = work.job.spec, threading.Event()
        if earlier := self._writing.get(spec.id):
            await asyncio.wait([earlier])  # its files must not replace the new ones
        self._outputs[spec.id] = [OutputStatus(uri=one.uri, formats=one.formats) for one in spec.outputs]

        def check() -> None:
            if is_stopped.is_set():
                raise _Stopped

        def report(index: int, written: int, detail: str) -> None:
            check()
            statuses = self._outputs[spec.id]
            statuses[index] = statuses[index].model_copy(update={"written": written, "detail": detail})

        results = StoredResults(self._board.ledger.store, spec.id, check)
        folder = self._files.folder / spec.id
        call = asyncio.to_thread(write_outputs, spec, results, folder, self._args, report=report)
        thread = self._writing[spec.id] = asyncio.ensure_future(call)
        thread.add_done_callback(lambda done: self._written(spec.id, done))
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:
            is_stopped.set()
            raise

    def _written(self, job_id: str, thread: asyncio.Future[None]) -> None:
        if not thread.cancelled():
            thread.exception()  # the error of a thread for which nobody waits does not matter
        del self._writing[job_id]
        self._files.forget_measurement()
