"""Tests of requests that come at the same time as another change of the job."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import Conflict
from serve_app.jobs import finishing
from serve_app.jobs.store import Job, JobStore
from serve_app.jobs.units import Unit
from serve_app.schemas.jobs import JobSpec, JobState, Retry
from tests.support.fake_runners import (
    ADMIN,
    FakeRunners,
    StubbornRunners,
    done_items,
    ended,
    result_of,
    spec_of,
    status_when,
    supervision_of,
)

pytestmark = pytest.mark.anyio


class RetryingStore(JobStore):
    """A store in which a retry is stored just before the state ``finishing``."""

    has_retried = False

    def set_state(self, job_id: str, state: JobState, now_s: float, detail: str = "") -> Job:
        if state == "finishing" and not self.has_retried:
            self.has_retried = True
            super().retry(job_id, None, now_s)
        return super().set_state(job_id, state, now_s, detail)


class SlowStore(JobStore):
    """A store whose first claim waits for ``gate``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = threading.Event()
        self.is_claiming = threading.Event()

    def claim(self, job_id: str, limit: int, now_s: float) -> list[Unit]:
        units = super().claim(job_id, limit, now_s)
        if units:
            self.is_claiming.set()
            assert self.gate.wait(60)
        return units


async def test_a_job_that_is_started_twice_at_once_does_each_item_once(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(JobSpec.model_validate({"id": "night", "source": {"type": "upload"}}), ADMIN)
        for number in range(10):
            await supervision.put_file("night", ADMIN, f"{number}.jpg", 0, b"a", last=True)
        starts = [supervision.start("night", ADMIN) for _ in range(2)]
        answers = await asyncio.gather(*starts, return_exceptions=True)
        assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [Conflict]
        assert (await ended(supervision)).items == 10


async def test_a_job_can_be_retried_as_soon_as_it_has_failed(tmp_path: Path) -> None:
    runners = StubbornRunners()
    runners.answer = lambda unit: result_of(unit, failing=frozenset(item.name for item in unit.items))
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 200, max_failed={"share": 0, "after": 1}), ADMIN)
        await status_when(supervision, lambda status: status.state == "failed")
        runners.answer = result_of
        assert (await supervision.retry("night", ADMIN, Retry())).state == "running"
        status = await ended(supervision)
        assert (status.state, status.succeeded) == ("completed", 200)
        runners.leave.set()
        assert await done_items(supervision) == list(range(200))


async def test_a_retry_just_before_the_outputs_are_written_is_done_first(tmp_path: Path) -> None:
    failing = frozenset({"00003.jpg"})
    runners = FakeRunners(lambda unit: result_of(unit, failing=failing if unit.attempt == 1 else frozenset()))
    async with supervision_of(tmp_path, runners, store=RetryingStore(tmp_path / "state")) as supervision:
        await supervision.create(spec_of(tmp_path, 10), ADMIN)
        status = await ended(supervision)
        assert (status.state, status.succeeded, status.waiting) == ("completed", 10, 0)


async def test_no_unit_of_a_job_that_was_deleted_meanwhile_is_begun(tmp_path: Path) -> None:
    store, runners = SlowStore(tmp_path / "state"), FakeRunners()
    async with supervision_of(tmp_path, runners, store=store) as supervision:
        await supervision.create(spec_of(tmp_path, 1), ADMIN)
        assert await asyncio.to_thread(store.is_claiming.wait, 60)
        deletion = asyncio.create_task(supervision.delete("night", ADMIN))
        for _ in range(20):  # until the deletion waits for the store
            await asyncio.sleep(0)
        store.gate.set()
        await deletion
        assert runners.units == []


async def test_outputs_are_not_overwritten_by_a_thread_that_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, events = threading.Event(), list[str]()

    def write(*args: Any, **options: Any) -> None:
        is_first = not events
        events.append("begin")
        if is_first:
            assert gate.wait(60)
        events.append("end")

    monkeypatch.setattr(finishing, "write_outputs", write)
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 10), ADMIN)
        await status_when(supervision, lambda status: status.state == "finishing")
        await status_when(supervision, lambda status: events)
        await supervision.cancel("night", ADMIN)
        await supervision.retry("night", ADMIN, Retry())
        await status_when(supervision, lambda status: status.state == "finishing")
        await asyncio.sleep(0.1)  # the new thread would begin now
        gate.set()
        assert (await ended(supervision)).state == "completed"
    assert events == ["begin", "end"] * 2


async def test_a_thread_that_writes_outputs_ends_soon_after_its_job_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, is_writing, left = threading.Event(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def write(spec: JobSpec, results: Any, *args: Any, **options: Any) -> None:
        try:
            for _ in results.results():
                is_writing.set()
                assert gate.wait(60)
        finally:
            loop.call_soon_threadsafe(left.set)
        events.append("written")

    events = list[str]()
    monkeypatch.setattr(finishing, "write_outputs", write)
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 10), ADMIN)
        assert await asyncio.to_thread(is_writing.wait, 60)
        await supervision.cancel("night", ADMIN)
        gate.set()
        await asyncio.wait_for(left.wait(), 60)
    assert events == []
