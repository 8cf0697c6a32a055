"""Moves of streams off draining nodes, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import SharedMemoryError
from serve_app.schemas.streams import Line, Regions
from serve_app.streams.store import StreamStore
from serve_app.streams.supervision import Supervision
from tests.support.fake_workers import FakeWorker, FakeWorkers, spec_of, supervising
from tests.support.principals import LOCAL
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return BACKEND


GATE = Regions(lines=[Line(name="gate", start=(0, 0), end=(1, 1))])


def slow_elsewhere(ready_after_s: float) -> Callable[[FakeWorker], None]:
    """Return a function that delays workers on the second node. They become ready after ``ready_after_s`` seconds."""

    def prepare(worker: FakeWorker) -> None:
        worker.ready_after_s = ready_after_s if worker.on_node == "node-2" else 0.0

    return prepare


def drain(workers: FakeWorkers) -> None:
    """Drain the first node. New workers then start on the second node."""
    workers.node = "node-2"
    workers.draining = {"node-1"}


async def test_a_stream_leaves_a_draining_node_once_its_next_worker_is_ready(tmp_path: Path) -> None:
    workers = FakeWorkers(slow_elsewhere(10))
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        drain(workers)
        await asyncio.sleep(9)
        first, second = workers.started
        assert (second.name, second.calls) == ("lot:1", ["ready"])
        assert "stop" not in first.calls
        await asyncio.sleep(5)
        status = await supervision.status("lot", LOCAL)
        assert (status.state, status.restarts) == ("running", 0)
        assert first.is_dead
        assert "stop" in first.calls
        assert "run" in second.calls
        await asyncio.sleep(100)
    assert set(workers.alive) == {"lot:1"}
    assert [record.moves for record in StreamStore(tmp_path).records()] == [1]


async def test_a_stream_on_a_node_that_is_not_draining_is_not_moved(tmp_path: Path) -> None:
    workers = FakeWorkers()
    workers.draining = {"node-2"}
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(100)
    assert len(workers.started) == 1


CHANGES: dict[str, Callable[[Supervision], Awaitable[Any]]] = {
    "paused": lambda supervision: supervision.pause("lot", LOCAL),
    "deleted": lambda supervision: supervision.delete("lot", LOCAL),
    "replaced": lambda supervision: supervision.replace(spec_of(max_fps=5), LOCAL),
    "counts other regions": lambda supervision: supervision.set_regions("lot", LOCAL, GATE),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_move_is_undone_when_the_stream_changes_meanwhile(change: str, tmp_path: Path) -> None:
    workers = FakeWorkers(slow_elsewhere(10))
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        drain(workers)
        await asyncio.sleep(5)
        workers.draining = set()  # so that the move is not retried
        successor = workers.last
        assert successor.name == "lot:1"
        await CHANGES[change](supervision)
        await asyncio.sleep(100)
        assert successor.is_dead
        assert "run" not in successor.calls
    assert set(workers.alive) == ({"lot:0"} if change in {"replaced", "counts other regions"} else set())
    assert {record.moves for record in StreamStore(tmp_path).records()} <= {0}


async def test_a_move_whose_successor_is_not_ready_in_40_s_is_undone_and_retried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers = FakeWorkers(slow_elsewhere(41))
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        drain(workers)
        await asyncio.sleep(43)
        first, successor = workers.started
        assert successor.is_dead
        assert "stream lot could not be moved off its draining node; will retry" in caplog.text
        assert not first.is_dead
        assert "stop" not in first.calls
        workers.prepare = slow_elsewhere(10)
        await asyncio.sleep(20)
        assert first.is_dead
        assert (await supervision.status("lot", LOCAL)).state == "running"
    assert set(workers.alive) == {"lot:1"}


async def test_a_move_whose_successor_refuses_to_start_is_undone_and_retried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Test a former bug: a single refusal ended all moves and made the supervisor unhealthy."""

    def refuse(worker: FakeWorker) -> None:
        worker.refusals["ready"] = SharedMemoryError("/dev/shm is too small")

    workers = FakeWorkers(refuse)
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        drain(workers)
        await asyncio.sleep(5)
        supervision.check()
        first, *successors = workers.started
        assert "stop" not in first.calls
        assert (await supervision.status("lot", LOCAL)).state == "running"
        assert len(successors) == 2
        assert all(successor.is_dead for successor in successors)
        assert caplog.text.count("draining node; will retry: /dev/shm is too small") == 2
        workers.prepare = slow_elsewhere(0)
        await asyncio.sleep(5)
        assert first.is_dead
    assert set(workers.alive) == {"lot:1"}


async def test_at_most_four_streams_move_at_once(tmp_path: Path) -> None:
    workers = FakeWorkers(slow_elsewhere(10))
    async with supervising(tmp_path, workers) as supervision:
        for number in range(10):
            await supervision.create(spec_of(f"lot-{number}"), LOCAL)
        await asyncio.sleep(1)
        drain(workers)
        await asyncio.sleep(60)
    assert workers.most_at_once == 14
    assert set(workers.alive) == {f"lot-{number}:1" for number in range(10)}


async def test_a_paused_and_a_finished_stream_are_not_moved(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of("paused", paused=True), LOCAL)
        await supervision.create(spec_of("finished"), LOCAL)
        await asyncio.sleep(1)
        workers.last.finish()
        drain(workers)
        await asyncio.sleep(5)  # the process of the finished stream is still running
        assert not workers.last.is_dead
        await asyncio.sleep(100)
    assert [worker.name for worker in workers.started] == ["finished:0"]


async def test_a_worker_whose_node_is_unknown_is_queried_later(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        drain(workers)
        workers.last.cut_off()
        await asyncio.sleep(10)
        assert len(workers.started) == 1
        workers.last.reconnect()
        await asyncio.sleep(10)
    assert set(workers.alive) == {"lot:1"}


async def test_a_move_is_undone_when_the_supervisor_stops(tmp_path: Path) -> None:
    workers = FakeWorkers(slow_elsewhere(10))
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        drain(workers)
        await asyncio.sleep(5)
        assert set(workers.alive) == {"lot:0", "lot:1"}
    assert set(workers.alive) == {"lot:0"}
    assert not workers.alive["lot:0"].is_dead


async def test_a_stream_whose_process_does_not_end_is_not_handed_over(tmp_path: Path) -> None:
    """Only one process at a time may run the stream. The worker restarts with its old name, and moves later."""
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.immortal.add("lot:0")
        drain(workers)
        await asyncio.sleep(30)
        assert "could not be ended" in (await supervision.status("lot", LOCAL)).detail
        assert all("run" not in worker.calls for worker in workers.started if worker.name == "lot:1")
        assert set(workers.alive) == {"lot:0"}
        workers.immortal.clear()
        await asyncio.sleep(30)
        assert (await supervision.status("lot", LOCAL)).state == "running"
    (worker,) = workers.alive.values()
    assert worker.on_node == "node-2"
