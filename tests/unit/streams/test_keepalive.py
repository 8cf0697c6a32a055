"""Workers that die, become silent or cannot be reached. The tests run in virtual time."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pytest

from serve_app.errors import SharedMemoryError
from serve_app.schemas.streams import StreamStatus
from serve_app.streams.store import StreamStore
from serve_app.streams.supervision import Supervision
from serve_app.streams.workers import WorkerFailed
from tests.support.fake_workers import FakeWorker, FakeWorkers, now_s, spec_of, supervising
from tests.support.principals import LOCAL
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return BACKEND


def life_of(*lives_s: float) -> Any:
    """Return a function that makes the first workers die after the given times. Later workers do not die."""
    remaining = list(lives_s)

    def prepare(worker: FakeWorker) -> None:
        if remaining:
            asyncio.get_running_loop().call_later(remaining.pop(0), worker.die)

    return prepare


def pauses_s(workers: FakeWorkers, *lives_s: float) -> list[float]:
    """Return the time from each worker's death to the start of the next worker."""
    starts = pairwise(worker.started_at_s for worker in workers.started)
    return [later - earlier - life_s for (earlier, later), life_s in zip(starts, lives_s, strict=True)]


async def shown(supervision: Supervision) -> StreamStatus:
    """List all streams, and return the status of the only stream."""
    (status,) = await supervision.all(LOCAL)
    return status


async def test_the_restart_pause_of_a_worker_that_dies_early_doubles_from_0_2_s_to_30_s(
    tmp_path: Path,
) -> None:
    workers = FakeWorkers(life_of(*[1.0] * 10))
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(300)
    expected = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    assert pauses_s(workers, *[1.0] * 10) == pytest.approx(expected, abs=0.03)
    assert workers.most_at_once == 1


async def test_a_worker_that_ran_for_30_s_resets_the_back_off(tmp_path: Path) -> None:
    lives_s = [1.0, 1.0, 1.0, 31.0, 1.0, 29.0]
    workers = FakeWorkers(life_of(*lives_s))
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(300)
    assert pauses_s(workers, *lives_s) == pytest.approx([0.2, 0.4, 0.8, 0.1, 0.2, 0.4], abs=0.03)


async def test_restarts_are_counted_in_the_status_and_in_the_store(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.die()
        await asyncio.sleep(0.1)
        waiting = await shown(supervision)
        assert (waiting.state, waiting.restarts) == ("starting", 1)
        assert waiting.detail == "the stream's process ended (killed); restarting it; restarts so far: 1"
        await asyncio.sleep(0.2)
        running = await shown(supervision)
        assert (running.state, running.restarts, running.detail) == ("running", 1, "")
    assert [record.restarts for record in StreamStore(tmp_path).records()] == [1]


async def test_a_worker_that_fails_while_its_process_lives_is_killed_and_replaced(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        first = workers.last
        first.fail(WorkerFailed("RayTaskError"))
        await asyncio.sleep(1)
        assert first.is_dead
        assert len(workers.started) == 2
        assert workers.most_at_once == 1
        assert (await shown(supervision)).state == "running"


async def test_the_status_and_the_log_say_why_a_stream_could_not_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.fail(SharedMemoryError("/dev/shm is too small"))
        await asyncio.sleep(0.1)
        detail = (await shown(supervision)).detail
    assert detail == "the stream's process ended (/dev/shm is too small); restarting it; restarts so far: 1"
    assert "stream lot: its process ended: /dev/shm is too small" in caplog.text


async def test_an_unreachable_worker_is_joined_again_when_it_can_be_reached(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.cut_off()
        await asyncio.sleep(20)
        status = await shown(supervision)
        assert (status.state, status.detail) == ("starting", "the stream's process cannot be reached; retrying")
        workers.last.reconnect()
        await asyncio.sleep(1.1)
        status = await shown(supervision)
        assert (status.state, status.restarts, len(workers.started)) == ("running", 0, 1)
        assert workers.killed == []
        workers.last.die()  # to notice the death, the supervision must be waiting for this worker again
        await asyncio.sleep(1)
        assert len(workers.started) == 2


async def test_an_unreachable_worker_that_turns_out_dead_is_replaced_and_counts_as_one_restart(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.cut_off()
        await asyncio.sleep(5)
        workers.last.die()
        await asyncio.sleep(2)
        status = await shown(supervision)
        assert (status.state, status.restarts, len(workers.started)) == ("running", 1, 2)


async def test_a_silent_worker_is_killed_after_60_s(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(11)
        silent, silent_at_s = workers.last, now_s()
        silent.answers_status = False
        await asyncio.sleep(55)
        assert not silent.is_dead
        while not silent.is_dead:
            await asyncio.sleep(0.1)
        assert 59 < now_s() - silent_at_s < 70  # the supervision checks every 5 s, and waits 2 s for the status
        await asyncio.sleep(1)
        assert (await shown(supervision)).state == "running"
        assert len(workers.started) == 2


async def test_a_worker_that_answers_once_a_minute_is_not_killed(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        for _ in range(10):
            workers.last.answers_status = True
            await asyncio.sleep(8)
            workers.last.answers_status = False
            await asyncio.sleep(50)
    assert len(workers.started) == 1
    assert not workers.last.is_dead


async def test_a_process_that_takes_long_to_start_is_not_killed_and_the_status_says_what_it_needs(
    tmp_path: Path,
) -> None:
    def never_answer(worker: FakeWorker) -> None:
        worker.answers_status = False

    workers = FakeWorkers(never_answer)
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(600)
        status = await shown(supervision)
    assert (status.state, status.detail) == (
        "starting", "the stream's process has not started yet; it needs 0.02 CPU cores",
    )  # fmt: skip
    assert not workers.last.is_dead


async def test_a_new_process_that_starts_slowly_is_not_treated_as_silent(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(100)
        workers.prepare = lambda worker: setattr(worker, "answers_status", False)
        workers.last.die()
        await asyncio.sleep(100)
    assert len(workers.started) == 2
    assert not workers.last.is_dead


async def test_a_finished_streams_process_answers_for_10_s(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.finish()
        await asyncio.sleep(9.9)
        assert (await supervision.events("lot", LOCAL, None, 5)).events
        assert not workers.last.is_dead
        await asyncio.sleep(0.2)
        assert workers.last.is_dead
        assert (await supervision.events("lot", LOCAL, None, 5)).events == []
        assert (await shown(supervision)).state == "completed"
        await asyncio.sleep(100)
    assert len(workers.started) == 1
    (record,) = StreamStore(tmp_path).records()
    assert record.ended is not None
    assert record.ended.state == "completed"


async def test_a_stream_that_is_paused_during_a_restart_is_not_started(tmp_path: Path) -> None:
    workers = FakeWorkers(life_of(1.0, 1.0, 1.0))
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(4)  # 0.4 s after the third worker's death, and 0.4 s before the next start
        assert len(workers.started) == 3
        paused = await supervision.pause("lot", LOCAL)
        assert (paused.state, paused.detail) == ("paused", "")
        await asyncio.sleep(100)
    assert len(workers.started) == 3


async def test_a_worker_is_restarted_even_if_the_store_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        monkeypatch.setattr(StreamStore, "put", fail)
        with caplog.at_level(logging.ERROR):
            workers.last.die()
            await asyncio.sleep(1)
        assert "the store cannot be written: No space left on device" in caplog.text
        status = await shown(supervision)
    assert (status.state, status.restarts) == ("running", 1)


async def test_no_worker_is_started_while_the_last_one_of_the_name_does_not_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.immortal.add("lot:0")
        workers.last.fail(WorkerFailed("RayTaskError"))
        await asyncio.sleep(60)
        status = await shown(supervision)
        assert status.state == "starting"
        assert "could not be ended" in status.detail
        assert len(workers.started) == 1
        assert 9 <= workers.killed.count("lot:0") <= 11  # each attempt takes 5 s, and each pause 1 s
        assert caplog.text.count("could not be ended") == 1
        workers.immortal.clear()
        await asyncio.sleep(8)
        status = await shown(supervision)
    assert (status.state, status.detail, status.restarts) == ("running", "", 1)
    assert len(workers.started) == 2


class BuggyWorkers(FakeWorkers):
    """Workers whose first call of ``kill`` raises an unexpected error."""

    has_bug = True

    async def kill(self, name: str) -> None:
        if self.has_bug:
            self.has_bug = False
            raise RuntimeError("a bug")
        await super().kill(name)


async def test_an_unexpected_error_is_logged_and_the_stream_is_restarted_after_30_s(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Test a former bug: the keeper ended without a log line, and the stream was never restarted."""
    workers = BuggyWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.die()
        await asyncio.sleep(29)
        status = await shown(supervision)
        assert status.state == "starting"
        assert "unexpected error" in status.detail
        assert "stream lot: unexpected error in its supervision; retrying in 30 s" in caplog.text
        assert "RuntimeError: a bug" in caplog.text
        await asyncio.sleep(2)
        assert (await shown(supervision)).state == "running"
    assert len(workers.started) == 2


async def test_the_process_of_a_finished_stream_ends_despite_an_unexpected_error(tmp_path: Path) -> None:
    workers = BuggyWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.finish()
        await asyncio.sleep(11)
        assert not workers.last.is_dead
        await asyncio.sleep(31)
        assert workers.alive == {}
        status = await shown(supervision)
    assert (status.state, status.detail) == ("completed", "")
    assert len(workers.started) == 1


async def test_the_process_of_a_finished_stream_is_killed_until_it_ends(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.immortal.add("lot:0")
        workers.last.finish()
        await asyncio.sleep(60)
        status = await shown(supervision)
        assert status.state == "completed"
        assert "could not be ended" in status.detail
        workers.immortal.clear()
        await asyncio.sleep(6)
        status = await shown(supervision)
    assert workers.alive == {}
    assert (status.state, status.detail) == ("completed", "")
