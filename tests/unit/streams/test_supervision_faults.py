"""Changes to streams, each of which goes wrong.

The caller is cancelled, a process does not end, or the store cannot be written. The tests run in virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from serve_app.errors import StartError, Unavailable
from serve_app.schemas.streams import StreamSpec
from serve_app.streams.store import StreamStore
from serve_app.streams.supervision import Supervision
from serve_app.streams.workers import WorkerFailed
from tests.support.fake_workers import FakeDetectors, FakeWorkers, now_s, spec_of, supervising
from tests.support.principals import LOCAL
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return BACKEND


CHANGES: dict[str, Callable[[Supervision], Awaitable[Any]]] = {
    "delete": lambda supervision: supervision.delete("lot", LOCAL),
    "replace": lambda supervision: supervision.replace(spec_of(max_fps=5), LOCAL),
    "pause": lambda supervision: supervision.pause("lot", LOCAL),
}


def stored(folder: Path) -> dict[str, StreamSpec]:
    """Return the spec of each stream in the store."""
    return {record.spec.id: record.spec for record in StreamStore(folder).records()}


def fail(*args: object) -> NoReturn:
    """Raise the OSError of a full disk."""
    raise OSError(28, "No space left on device")


async def test_a_worker_that_does_not_stop_in_20_s_is_killed(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.stop_takes_s = 1000
        started_at_s = now_s()
        await supervision.delete("lot", LOCAL)
        assert now_s() - started_at_s == pytest.approx(20, abs=0.1)
    assert workers.last.is_dead


@pytest.mark.parametrize("change", CHANGES)
async def test_a_worker_that_refuses_to_stop_is_killed(change: str, tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        first = workers.last
        first.refusals["stop"] = StartError("the recording cannot be closed")
        await CHANGES[change](supervision)
        assert first.is_dead
        await asyncio.sleep(1)
    assert len(workers.alive) == (1 if change == "replace" else 0)


async def test_a_change_is_completed_after_its_caller_is_gone(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.stop_takes_s = 10
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(supervision.delete("lot", LOCAL), 1)
        assert workers.alive.keys() == {"lot:0"}
        await asyncio.sleep(10)
        assert workers.alive == {}
    assert stored(tmp_path) == {}


async def test_a_change_waits_for_a_kill_in_progress_which_would_hit_the_next_worker(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.kill_takes_s = 3
        workers.last.fail(WorkerFailed("RayTaskError"))
        await asyncio.sleep(1)
        workers.kill_takes_s = 0.01
        await supervision.replace(spec_of(max_fps=5), LOCAL)
        await asyncio.sleep(10)
        assert (await supervision.status("lot", LOCAL)).restarts == 0
    assert len(workers.started) == 2
    assert not workers.last.is_dead


async def test_a_change_is_finished_before_another_process_may_hold_the_store(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.stop_takes_s = 10
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(supervision.delete("lot", LOCAL), 1)
    assert stored(tmp_path) == {}
    assert workers.alive == {}


async def test_a_stream_that_is_created_during_shutdown_is_left_to_the_next_supervisor(tmp_path: Path) -> None:
    """Test a former bug: the old supervisor kept the stream alive, too, although it had released the store's lock."""
    workers, detectors = FakeWorkers(), FakeDetectors()
    detectors.answer_after_s = 1
    async with supervising(tmp_path, workers, detectors=detectors) as supervision:
        creating = asyncio.create_task(supervision.create(spec_of(), LOCAL))
        await asyncio.sleep(0.5)
        assert stored(tmp_path) == {}
    await creating
    assert stored(tmp_path) == {"lot": spec_of()}
    for worker in workers.started:
        worker.die()
    await asyncio.sleep(100)
    assert workers.killed == []
    assert all(worker.is_dead for worker in workers.started)


async def test_a_restart_is_written_before_another_process_may_hold_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    async def write_slowly(function: Callable[..., Any], *args: Any) -> Any:
        """Imitate a slow thread: call the function after 2 s, even if the caller is cancelled."""

        async def work() -> Any:
            await asyncio.sleep(2)
            done.append(function.__name__)
            return function(*args)

        return await asyncio.shield(asyncio.create_task(work()))

    monkeypatch.setattr(StreamStore, "release", lambda store: done.append("release"))
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        monkeypatch.setattr(asyncio, "to_thread", write_slowly)
        workers.last.die()
        await asyncio.sleep(1)
    assert done == ["put", "release"]
    assert [record.restarts for record in StreamStore(tmp_path).records()] == [1]


async def test_a_stream_is_not_created_when_the_store_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        monkeypatch.setattr(StreamStore, "put", fail)
        with pytest.raises(Unavailable, match=r"streams\.state_dir cannot be written .No space left"):
            await supervision.create(spec_of(), LOCAL)
        assert await supervision.all(LOCAL) == []
    assert workers.started == []


@pytest.mark.parametrize("change", CHANGES)
async def test_a_stream_keeps_running_when_a_change_cannot_be_stored(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        for method in ("put", "delete", "start_over"):
            monkeypatch.setattr(StreamStore, method, fail)
        with pytest.raises(Unavailable, match=r"streams\.state_dir cannot be written .No space left"):
            await CHANGES[change](supervision)
        await asyncio.sleep(1)
        assert (await supervision.status("lot", LOCAL)).state == "running"
        assert not workers.last.is_dead
    assert stored(tmp_path) == {"lot": spec_of()}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_whose_old_process_does_not_end_is_refused_and_the_kill_is_retried(
    change: str, tmp_path: Path
) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.immortal.add("lot:0")
        with pytest.raises(Unavailable, match="could not be ended yet"):
            await CHANGES[change](supervision)
        await asyncio.sleep(60)
        status = await supervision.status("lot", LOCAL)
        assert status.state == ("paused" if change == "pause" else "starting")
        assert "could not be ended" in status.detail
        assert len(workers.started) == 1
        workers.immortal.clear()
        await asyncio.sleep(10)
        status = await supervision.status("lot", LOCAL)
        assert (status.state, status.detail) == ("paused" if change == "pause" else "running", "")
        await CHANGES[change](supervision)
    assert len(workers.alive) == (1 if change == "replace" else 0)


async def test_a_paused_stream_is_not_resumed_while_its_old_process_does_not_end(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.immortal.add("lot:0")
        for change in (supervision.pause, supervision.resume):
            with pytest.raises(Unavailable):
                await change("lot", LOCAL)
        assert (await supervision.status("lot", LOCAL)).state == "paused"
        workers.immortal.clear()
        await supervision.resume("lot", LOCAL)
        await asyncio.sleep(1)
        assert (await supervision.status("lot", LOCAL)).state == "running"
    assert len(workers.started) == 2
