"""The dispatch, which gives units to runners and stores their results."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from serve_app.errors import ModelChanged, NotFound, ReplicaDied, ServeAppError
from serve_app.jobs.active import ActiveJob, size
from serve_app.jobs.board import Board
from serve_app.jobs.outputs import OutputUnwritable
from serve_app.jobs.shares import Shares
from serve_app.jobs.store import Job, JobStore
from serve_app.jobs.units import Failed, Unit, UnitResult
from serve_app.schemas.jobs import JobSpec, UrlsSource
from serve_app.telemetry.metrics import JOB_ITEMS_DONE, JOB_UNITS_REPEATED, Telemetry

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0  # before a unit is tried again whose runner died or was not available; it doubles
_MAX_PAUSE_S = 30.0
_MAX_DOUBLINGS = 10  # more would not change the pause, and after 1024, the number would be too large
_MIN_PAUSE_S = 0.01  # so that rounding errors of times never make a loop busy
_STORE_PAUSE_S = 2.0  # before a change is stored again that could not be stored
_MAX_UNITS_INTERVAL_S = 1.0  # before ``max_units`` is called again while no runner is allowed


class Runners(Protocol):
    """The runners, of which there may be none at the moment. A call waits until one has started.

    ``deployments.job_supervisor.ServeRunners`` implements it.
    """

    async def max_units(self) -> int:
        """Return how many units the runners can work on at once, if as many run as are allowed."""

    async def run(self, unit: Unit, spec: JobSpec, model_version: str | None) -> UnitResult:
        """Work on a unit. Cancelling the call stops the runner's work.

        Raise ModelChanged if the Detectors serve another version of the model, OutputUnwritable if images can never be
        written, ReplicaDied if the runner died, and another ServeAppError if no runner can work on the unit now.
        """

    async def picture(self, unit: Unit, spec: JobSpec, item: int, result: str | None) -> bytes:
        """Return the image of an item as a JPEG, with the boxes of ``result`` if it is given."""


class Dispatch:
    """Keeps as many units with the runners as they can work on at once. The jobs get fair shares."""

    def __init__(
        self,
        board: Board,
        runners: Runners,
        telemetry: Telemetry,
        finish: Callable[[ActiveJob], None],
        check_space: Callable[[], None],
    ) -> None:
        """Call ``run`` to begin. ``finish`` is called with each job all of whose items are done.

        ``check_space`` raises NoSpace if the quota of all jobs is used up. It blocks.
        """
        self._board = board
        self._ledger = board.ledger
        self._store = board.ledger.store
        self._runners = runners
        self._telemetry = telemetry
        self._finish = finish
        self._check_space = check_space
        self._shares = Shares()

    async def run(self) -> None:
        """Give units to runners, indefinitely."""
        while True:
            self._board.changed.clear()
            wait_s = await self._fill()
            try:
                await asyncio.wait_for(self._board.changed.wait(), wait_s)
            except TimeoutError:
                pass  # a pause is over

    async def _fill(self) -> float | None:
        """Keep the runners busy. Return after how many seconds there may be more to do, or None."""
        loop = asyncio.get_running_loop()
        while True:
            works = list(self._board.works.values())
            ready = [work for work in works if work.may_dispatch(loop.time())]
            if not ready:
                pauses_s = [work.not_before_s - loop.time() for work in works if work.may_dispatch(work.not_before_s)]
                return max(min(pauses_s), _MIN_PAUSE_S) if pauses_s else None
            limit = await self._runners.max_units()
            if sum(len(work.out) for work in works) >= limit:
                return None if limit else _MAX_UNITS_INTERVAL_S
            await self._claim(self._shares.choose(ready))

    async def _claim(self, work: ActiveJob) -> None:
        """Claim a unit, and start the task that gives it to a runner."""
        work.may_have_open = False  # something may open another unit while we claim one
        try:
            await asyncio.to_thread(self._check_space)
            units = await self._ledger.call(self._store.claim, work.id, 1, time.time())
            if not units:
                await self._settle(work)
                return
        except NotFound:
            return  # the job was deleted
        except ServeAppError as exc:
            work.may_have_open = True
            await self._hinder(work, exc)
            return
        work.may_have_open = True
        unit, now_s = units[0], asyncio.get_running_loop().time()
        work.rate.start(now_s)
        if unit.attempt > 1:
            self._telemetry.record(JOB_UNITS_REPEATED)
        self._shares.charge(work, size(unit))
        if limit := work.job.spec.max_images_per_s:
            work.not_before_s = max(work.not_before_s, now_s) + size(unit) / limit
        work.out[unit.number] = unit
        self._board.run_task(work, self._work_on(work, unit), f"unit {unit.number}")

    async def _work_on(self, work: ActiveJob, unit: Unit) -> None:
        """Let a runner work on a unit, and store the results. The unit is given back if there are none."""
        try:
            if not await self._may_begin(work):
                await self._release(work, unit, suspect=False)
                return
            result = await self._call(work, unit)
            if result is not None and not await self._commit(work, result):
                await self._give_back(work, unit, "a runner's result was not complete", suspect=True)
        except asyncio.CancelledError:
            if work.is_ended:  # otherwise the supervision ends, and the next one takes the unit back
                await self._release(work, unit, suspect=False)
            raise
        except Exception:  # a bug; without this, the unit would never be done
            logger.exception("job %s: unit %d is begun again", work.id, unit.number)
            await self._release(work, unit, suspect=False, pause_s=_MAX_PAUSE_S)
        finally:
            del work.out[unit.number]
            work.may_have_open = True

    async def _may_begin(self, work: ActiveJob) -> bool:
        """Show that a job has started. Return False if it was stopped meanwhile, or if the store refuses the change."""
        try:
            if work.job.started_at_s is None and not work.is_held:
                await self._board.set_state(work, "running")
        except ServeAppError as exc:
            await self._hinder(work, exc)
            return False
        return not work.is_held

    async def _hinder(self, work: ActiveJob, error: ServeAppError) -> None:
        """Claim no unit of a job for a while, because of an error of the store."""
        work.not_before_s = asyncio.get_running_loop().time() + _STORE_PAUSE_S
        await self._board.block(work, _described(error))

    async def _call(self, work: ActiveJob, unit: Unit) -> UnitResult | None:
        try:
            result = await self._runners.run(unit, _for_runners(work.job.spec), work.model_version)
        except ModelChanged:
            await self._release(work, unit, suspect=False)
            await self._change_of_model(work)
        except OutputUnwritable as exc:
            await self._release(work, unit, suspect=False)
            await self._fail(work, f"output_unwritable: {exc.detail}")
        except ReplicaDied as exc:
            await self._give_back(work, unit, exc.detail, suspect=True)
        except ServeAppError as exc:
            await self._give_back(work, unit, _described(exc), suspect=False)
        except Exception:  # a bug; after some attempts, the unit's items fail
            logger.exception("job %s: a runner failed on unit %d", work.id, unit.number)
            await self._give_back(work, unit, "a runner failed; the server's log has the reason", suspect=True)
        else:
            work.failures_in_a_row = 0
            return result
        return None

    async def _commit(self, work: ActiveJob, result: UnitResult) -> bool:
        """Store the results of a unit. Return False if they are not the results of exactly this unit."""
        while True:
            try:
                job = await self._ledger.call(_store_result, self._store, result, time.time())
                break
            except NotFound:
                return True  # the job was deleted
            except ModelChanged:
                await self._change_of_model(work)
                return True
            except ServeAppError as exc:  # the disk is full; the results are kept in memory meanwhile
                await self._board.block(work, _described(exc))
                await asyncio.sleep(_STORE_PAUSE_S)
            except ValueError:  # a bug of the runner
                logger.exception("job %s: unit %d", work.id, result.number)
                return False
        if job is not None:  # otherwise the job has ended
            work.update(job)
            await self._committed(work, result)
        return True

    async def _committed(self, work: ActiveJob, result: UnitResult) -> None:
        self._count(work, result)
        self._board.feeds.progressed(work)
        if result.results or result.failed:
            work.last_problem = ""
            if work.job.state == "blocked" or work.unstored_block:
                await self._unblock(work)
        if result.deferred is not None:
            work.last_problem = f"{result.deferred.code}: {result.deferred.detail}"
        await self._end_if_too_many_failed(work)

    async def _unblock(self, work: ActiveJob) -> None:
        with suppress(ServeAppError):  # the next results try it again
            await self._board.set_state(work, work.active_state)

    def _count(self, work: ActiveJob, result: UnitResult) -> None:
        work.rate.add(len(result.results) + len(result.failed), asyncio.get_running_loop().time())
        outcomes = Counter(failed.code for failed in result.failed) + Counter(succeeded=len(result.results))
        for outcome, count in outcomes.items():
            self._telemetry.record(JOB_ITEMS_DONE, count, outcome=outcome)

    async def _end_if_too_many_failed(self, work: ActiveJob) -> None:
        """End the job if more of its items failed than its specification allows."""
        job, limit = work.job, work.job.spec.max_failed
        done = job.succeeded + job.failed
        if done >= limit.after and job.failed > limit.share * done:
            await self._fail(
                work,
                f"too_many_failures: {job.failed} of {done} items failed, which is more than max_failed allows; see "
                "GET /jobs/{id}/items?state=failed",
            )

    async def _change_of_model(self, work: ActiveJob) -> None:
        await self._fail(
            work,
            f"model_changed: model {work.job.spec.detect.model!r} was changed during the job; make a new job, or set "
            "pin_model to false to allow results of several versions",
        )

    async def _fail(self, work: ActiveJob, detail: str) -> None:
        await self._board.bring_to_end(work, "failed", detail)

    async def _give_back(self, work: ActiveJob, unit: Unit, detail: str, *, suspect: bool) -> None:
        """Give back a unit that a runner has not done. It is claimed again after a pause, which grows."""
        work.failures_in_a_row += 1
        doublings = min(work.failures_in_a_row - 1, _MAX_DOUBLINGS)
        pause_s = min(_FIRST_PAUSE_S * 2**doublings, _MAX_PAUSE_S)
        if not suspect:
            work.last_problem = detail
        logger.warning("job %s: unit %d is given back for %.0f s: %s", work.id, unit.number, pause_s, detail)
        await self._release(work, unit, suspect=suspect, pause_s=pause_s)

    async def _release(self, work: ActiveJob, unit: Unit, *, suspect: bool, pause_s: float = 0.0) -> None:
        """Give a unit back to the store. Items that fail thereby, because too many runners died, count as results."""
        while True:
            try:
                job, failed = await self._ledger.call(_released, self._store, unit, suspect, pause_s)
                break
            except NotFound:
                return
            except ServeAppError:  # the disk is full
                await asyncio.sleep(_STORE_PAUSE_S)
        if failed:
            work.update(job)
            await self._committed(work, UnitResult(unit.job_id, unit.number, unit.attempt, (), tuple(failed)))

    async def _settle(self, work: ActiveJob) -> None:
        """Decide what follows for a job of which no unit can be claimed."""
        job = await self._ledger.call(self._store.job, work.id)
        work.update(job)
        if work.is_ended or work.may_have_open or work.out:
            return  # the end of a call wakes the dispatch
        if job.listed and not job.units.open + job.units.out:
            self._finish(work)
            return
        if job.units.open:
            pause_s = await self._ledger.call(self._store.next_pause_s, work.id, time.time())
            work.not_before_s = asyncio.get_running_loop().time() + max(pause_s or 0.0, _MIN_PAUSE_S)
            work.may_have_open = True
        elif job.units.out:  # their calls were cancelled by a deletion that failed
            work.update(await self._ledger.call(self._store.take_back, work.id))
            work.may_have_open = True
        if work.last_problem:
            await self._board.block(work, work.last_problem)


def _store_result(store: JobStore, result: UnitResult, now_s: float) -> Job | None:
    """Store a result. Return the job, or None if the store has refused the result.

    Raise ModelChanged if the job is pinned to another version of the model.
    """
    job = store.job(result.job_id)
    if job.spec.pin_model and len({name.rpartition("@")[2] for name in (*job.models, *result.models)}) > 1:
        raise ModelChanged("the model was changed during the job")
    return store.job(result.job_id) if store.commit(result, now_s) else None


def _released(store: JobStore, unit: Unit, suspect: bool, pause_s: float) -> tuple[Job, list[Failed]]:
    """Give a unit back. Return the job, and the items that have failed thereby."""
    failed = store.release(unit, time.time(), suspect=suspect, pause_s=pause_s)
    return store.job(unit.job_id), failed


def _described(error: ServeAppError) -> str:
    return f"{error.code}: {error.detail}"


def _for_runners(spec: JobSpec) -> JobSpec:
    """Return the specification without the list of URLs, which may be long. A unit has the URLs that it needs."""
    if isinstance(spec.source, UrlsSource) and spec.source.urls:
        return spec.model_copy(update={"source": spec.source.model_copy(update={"urls": spec.source.urls[:1]})})
    return spec
