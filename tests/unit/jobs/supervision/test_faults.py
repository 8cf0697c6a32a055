"""Tests of jobs while the disk is full, and of jobs whose supervision ends in the middle of a change."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import Conflict, NoSpace, Unavailable
from serve_app.jobs import board, dispatch, finishing
from serve_app.jobs.outputs import OutputUnwritable, write_outputs
from serve_app.jobs.store import Job, JobStore
from serve_app.jobs.units import Unit, UnitResult
from serve_app.schemas.jobs import JobState, Retry
from tests.support.fake_runners import (
    ADMIN,
    FakeRunners,
    done_items,
    ended,
    result_of,
    spec_of,
    status_when,
    supervision_of,
)

pytestmark = pytest.mark.anyio

FULL = "the disk is full"


class FullStore(JobStore):
    """A store on a disk that is full for the next ``refusals`` commits."""

    def __init__(self, folder: Path, refusals: int) -> None:
        super().__init__(folder)
        self.refusals = refusals

    def commit(self, result: UnitResult, now_s: float) -> bool:
        if self.refusals:
            self.refusals -= 1
            raise NoSpace(FULL)
        return super().commit(result, now_s)


class GrowingStore(JobStore):
    """A store whose size the test sets."""

    bytes_used = 0

    def size_bytes(self) -> int:
        return self.bytes_used


class FullDisk(JobStore):
    """A store on a disk that is so full that nothing can be written while ``is_full`` is set."""

    is_full = False

    def claim(self, job_id: str, limit: int, now_s: float) -> list[Unit]:
        self._check()
        return super().claim(job_id, limit, now_s)

    def commit(self, result: UnitResult, now_s: float) -> bool:
        self._check()
        return super().commit(result, now_s)

    def set_state(self, job_id: str, state: JobState, now_s: float, detail: str = "") -> Job:
        self._check()
        return super().set_state(job_id, state, now_s, detail)

    def _check(self) -> None:
        if self.is_full:
            raise NoSpace(FULL)


class RefusingStore(JobStore):
    """A store that cannot store one state at its first attempt."""

    refused: JobState | None = None

    def set_state(self, job_id: str, state: JobState, now_s: float, detail: str = "") -> Job:
        if state == self.refused:
            self.refused = None
            raise NoSpace(FULL)
        return super().set_state(job_id, state, now_s, detail)


class HesitantStore(JobStore):
    """A store that fails to store the first state ``cancelling``, after ``gate`` is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = threading.Event()
        self.has_failed = False

    def set_state(self, job_id: str, state: JobState, now_s: float, detail: str = "") -> Job:
        if state == "cancelling" and not self.has_failed:
            self.has_failed = True
            assert self.gate.wait(60)
            raise NoSpace(FULL)
        return super().set_state(job_id, state, now_s, detail)


class BuggyStore(JobStore):
    """A store whose first commit fails because of a bug."""

    has_failed = False

    def commit(self, result: UnitResult, now_s: float) -> bool:
        if not self.has_failed:
            self.has_failed = True
            raise KeyError("a bug")
        return super().commit(result, now_s)


class FrozenStore(JobStore):
    """A store that never gets from the state ``cancelling`` to the next one."""

    def set_state(self, job_id: str, state: JobState, now_s: float, detail: str = "") -> Job:
        if state == "cancelled":
            raise NoSpace(FULL)
        return super().set_state(job_id, state, now_s, detail)


async def test_results_that_do_not_fit_on_the_disk_are_stored_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_STORE_PAUSE_S", 0.3)
    runners = FakeRunners()
    async with supervision_of(tmp_path, runners, store=FullStore(tmp_path / "state", 3)) as supervision:
        await supervision.create(spec_of(tmp_path, 100), ADMIN)
        blocked = await status_when(supervision, lambda status: status.state == "blocked")
        assert blocked.detail == f"no_space: {FULL}"
        status = await ended(supervision)
        assert (status.state, status.succeeded, status.units.repeated) == ("completed", 100, 0)
        assert await done_items(supervision) == list(range(100))
    assert len(runners.units) == status.units.done  # no unit was computed twice


async def test_jobs_that_have_used_their_quota_wait_for_space(tmp_path: Path) -> None:
    store = GrowingStore(tmp_path / "state")
    async with supervision_of(tmp_path, FakeRunners(), store=store) as supervision:
        await supervision.create(spec_of(tmp_path, 10, paused=True), ADMIN)
        store.bytes_used = 2**40
        await supervision.resume("night", ADMIN)
        blocked = await status_when(supervision, lambda status: status.state == "blocked")
        assert blocked.detail.startswith("no_space: jobs.max_disk_gib: ")
        with pytest.raises(NoSpace):
            await supervision.create(spec_of(tmp_path, 10, "other"), ADMIN)
        store.bytes_used = 0
        status = await ended(supervision)
        assert status.succeeded == 10
        assert status.started_at_s is not None


async def test_outputs_that_do_not_fit_on_the_disk_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "_FIRST_PAUSE_S", 0.3)
    refusals = [NoSpace(FULL)] * 2

    def write_or_fail(*args: Any, **options: Any) -> None:
        if refusals:
            raise refusals.pop()
        write_outputs(*args, **options)

    monkeypatch.setattr(finishing, "write_outputs", write_or_fail)
    outputs = [{"uri": str(tmp_path / "out"), "formats": ["csv"]}]
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 10, outputs=outputs), ADMIN)
        blocked = await status_when(supervision, lambda status: status.state == "blocked")
        assert blocked.detail == f"no_space: {FULL}"
        status = await ended(supervision)
        assert (status.state, status.detail) == ("completed", "")
        assert status.outputs[0].written > 0
    assert (tmp_path / "out/results.csv").exists()


async def test_a_job_that_was_being_cancelled_is_cancelled_by_the_next_supervision(tmp_path: Path) -> None:
    runners = FakeRunners()
    runners.gate.clear()
    async with supervision_of(tmp_path, runners, store=FrozenStore(tmp_path / "state")) as supervision:
        await supervision.create(spec_of(tmp_path, 100), ADMIN)
        await status_when(supervision, lambda status: status.in_flight)
        with pytest.raises(NoSpace):
            await supervision.cancel("night", ADMIN)
        assert (await supervision.status("night", ADMIN)).state == "cancelling"
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        assert (await ended(supervision)).state == "cancelled"


async def test_a_cancelled_job_that_is_retried_does_the_rest(tmp_path: Path) -> None:
    runners = FakeRunners(lambda unit: result_of(unit, failing=frozenset({"00000.jpg"})), closing=True)
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 300), ADMIN)
        await status_when(supervision, lambda status: status.failed and status.listed and status.in_flight)
        assert (await supervision.cancel("night", ADMIN)).state == "cancelled"
        runners.gate.set()
        runners.answer = result_of
        await supervision.retry("night", ADMIN, Retry())
        status = await ended(supervision)
        assert (status.state, status.succeeded, status.failed) == ("completed", 300, 0)
        assert await done_items(supervision) == list(range(300))


async def test_a_second_supervision_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(supervision_of(tmp_path, FakeRunners()))
        await first.create(spec_of(tmp_path, 3), ADMIN)
        async with supervision_of(tmp_path, FakeRunners()) as second:
            call = asyncio.create_task(second.status("night", ADMIN))
            await ended(first)
            assert not call.done()
            await stack.aclose()
            assert (await call).state == "completed"


async def test_a_runner_whose_result_is_incomplete_does_not_stop_the_job(tmp_path: Path) -> None:
    broken = [1]

    def answer(unit: Any) -> UnitResult:
        result = result_of(unit)
        if broken:
            broken.pop()
            return UnitResult(result.job_id, result.number, result.attempt, result.results[1:])
        return result

    async with supervision_of(tmp_path, FakeRunners(answer)) as supervision:
        await supervision.create(spec_of(tmp_path, 40), ADMIN)
        status = await ended(supervision)
        assert (status.state, status.succeeded) == ("completed", 40)


async def test_a_unit_is_done_even_after_more_failures_in_a_row_than_a_power_of_two_can_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_MAX_PAUSE_S", 0.01)
    refusals = [Unavailable("no runner can be started")]
    runners = FakeRunners(lambda unit: refusals.pop() if refusals else result_of(unit))
    runners.gate.clear()
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 4), ADMIN)
        await status_when(supervision, lambda status: status.in_flight)
        supervision._board.works["night"].failures_in_a_row = 1100
        runners.gate.set()
        assert (await ended(supervision)).succeeded == 4


async def test_a_bug_while_results_are_stored_strands_no_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_MAX_PAUSE_S", 0.01)
    async with supervision_of(tmp_path, FakeRunners(), store=BuggyStore(tmp_path / "state")) as supervision:
        await supervision.create(spec_of(tmp_path, 4), ADMIN)
        status = await ended(supervision)
        assert (status.state, status.succeeded, status.units.repeated) == ("completed", 4, 1)


async def test_a_job_that_cannot_even_store_that_it_is_blocked_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_STORE_PAUSE_S", 0.1)
    store, runners = FullDisk(tmp_path / "state"), FakeRunners()
    runners.gate.clear()
    async with supervision_of(tmp_path, runners, store=store) as supervision:
        await supervision.create(spec_of(tmp_path, 10), ADMIN)
        await status_when(supervision, lambda status: status.in_flight)
        store.is_full = True
        runners.gate.set()
        blocked = await status_when(supervision, lambda status: status.state == "blocked")
        assert blocked.detail == f"no_space: {FULL}"
        store.is_full = False
        status = await ended(supervision)
        assert (status.state, status.detail, status.succeeded) == ("completed", "", 10)


async def test_a_source_that_cannot_be_listed_fails_the_job_as_soon_as_the_disk_has_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_END_PAUSE_S", 0.1)
    store = RefusingStore(tmp_path / "state")
    store.refused = "failed"
    async with supervision_of(tmp_path, FakeRunners(), store=store) as supervision:
        await supervision.create(spec_of(tmp_path, 0), ADMIN)
        status = await ended(supervision)
        assert (status.state, status.detail.partition(":")[0]) == ("failed", "source_unreadable")


async def test_an_output_that_cannot_be_written_fails_the_job_as_soon_as_the_disk_has_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OutputUnwritable("access denied")

    monkeypatch.setattr(board, "_END_PAUSE_S", 0.1)
    monkeypatch.setattr(finishing, "write_outputs", fail)
    store = RefusingStore(tmp_path / "state")
    store.refused = "failed"
    async with supervision_of(tmp_path, FakeRunners(), store=store) as supervision:
        await supervision.create(spec_of(tmp_path, 10), ADMIN)
        status = await ended(supervision)
        assert (status.state, status.detail) == ("failed", "output_unwritable: access denied")


@pytest.mark.parametrize("count", [10, 300], ids=["all units out", "open units"])
async def test_a_job_is_cancelled_as_soon_as_the_disk_has_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(board, "_END_PAUSE_S", 0.1)
    store, runners = RefusingStore(tmp_path / "state"), FakeRunners()
    store.refused = "cancelled"
    runners.gate.clear()
    async with supervision_of(tmp_path, runners, store=store) as supervision:
        await supervision.create(spec_of(tmp_path, count), ADMIN)
        await status_when(supervision, lambda status: status.in_flight and status.listed)
        with pytest.raises(NoSpace):
            await supervision.cancel("night", ADMIN)
        with suppress(Conflict):  # whether it is refused or not, it must not change the state
            await supervision.pause("night", ADMIN)
        assert (await ended(supervision)).state == "cancelled"


async def test_the_status_of_outputs_is_the_same_after_a_restart(tmp_path: Path) -> None:
    outputs = [{"uri": str(tmp_path / "out"), "formats": ["csv", "jsonl"]}, {"uri": "", "formats": ["coco"]}]
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 10, outputs=outputs), ADMIN)
        before = (await ended(supervision)).outputs
    assert before[0].written == len(list((tmp_path / "out").iterdir()))
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        assert (await supervision.status("night", ADMIN)).outputs == before


async def test_a_job_that_cannot_be_cancelled_is_completed_even_if_its_outputs_are_written_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, is_written = threading.Event(), threading.Event()

    def write(*args: Any, **options: Any) -> None:
        assert may_write.wait(60)
        is_written.set()

    monkeypatch.setattr(board, "_END_PAUSE_S", 0.1)
    monkeypatch.setattr(finishing, "write_outputs", write)
    store = HesitantStore(tmp_path / "state")
    async with supervision_of(tmp_path, FakeRunners(), store=store) as supervision:
        await supervision.create(spec_of(tmp_path, 10), ADMIN)
        await status_when(supervision, lambda status: status.state == "finishing")
        cancellation = asyncio.create_task(supervision.cancel("night", ADMIN))
        while not store.has_failed:
            await asyncio.sleep(0.01)
        may_write.set()
        assert await asyncio.to_thread(is_written.wait, 60)
        await asyncio.sleep(0.1)  # the finishing sees the cancellation now
        store.gate.set()
        with pytest.raises(NoSpace):
            await cancellation
        assert (await ended(supervision)).state == "completed"
