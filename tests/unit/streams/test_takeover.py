"""Supervisors that take over the streams of previous supervisors. The tests run in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NoReturn

import pytest

from serve_app.errors import InvalidParameter, SourceError, Unavailable
from serve_app.schemas.detect import DetectSettings
from serve_app.schemas.streams import SourceSpec, StreamStatus
from serve_app.streams.bookmark import Bookmark
from serve_app.streams.store import Record, StreamStore
from serve_app.streams.workers import WorkerUnreachable
from tests.support.fake_workers import FakeWorkers, spec_of, supervising
from tests.support.principals import LOCAL
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return BACKEND


def start_stray(workers: FakeWorkers, record: Record) -> None:
    """Start a worker without a supervisor."""
    workers.start(record, None)  # type: ignore[arg-type]


async def test_the_next_supervisor_takes_over_running_workers_and_kills_strays(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        for stream_id in ("a", "b", "c"):
            await supervision.create(spec_of(stream_id), LOCAL)
        await asyncio.sleep(1)
    assert workers.alive.keys() == {"a:0", "b:0", "c:0"}
    store = StreamStore(tmp_path)
    # Simulate a first supervisor that died while it moved stream a. Earlier, this supervisor had paused stream b and
    # deleted stream c. The workers of all three streams are still running.
    store.put(Record(spec=spec_of("b", paused=True)))
    store.delete("c")
    start_stray(workers, Record(spec=spec_of("a"), moves=1))
    async with supervising(tmp_path, workers) as supervision:
        statuses = await supervision.all(LOCAL)
        assert [(status.stream_id, status.state) for status in statuses] == [("a", "running"), ("b", "paused")]
        assert workers.alive.keys() == {"a:0"}
        await asyncio.sleep(100)
        assert (await supervision.status("a", LOCAL)).restarts == 0
    assert len(workers.started) == 4
    assert workers.alive["a:0"].calls.count("run") == 2


async def test_a_stray_that_does_not_end_delays_no_stream_and_its_kill_is_retried(tmp_path: Path) -> None:
    StreamStore(tmp_path).put(Record(spec=spec_of("a")))
    StreamStore(tmp_path).put(Record(spec=spec_of("b", paused=True)))
    workers = FakeWorkers()
    for stream_id in ("b", "unknown"):
        start_stray(workers, Record(spec=spec_of(stream_id)))
        workers.immortal.add(f"{stream_id}:0")
    async with supervising(tmp_path, workers) as supervision:
        a, b = await supervision.all(LOCAL)
        assert (a.state, b.state) == ("running", "paused")
        assert "could not be ended" in b.detail
        workers.immortal.clear()
        await asyncio.sleep(10)
        assert (await supervision.status("b", LOCAL)).detail == ""
    assert workers.alive.keys() == {"a:0", "unknown:0"}


async def test_the_next_supervisor_waits_for_the_store_and_says_so(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as first:
        await first.create(spec_of(), LOCAL)
        async with supervising(tmp_path, workers) as second:
            asked = asyncio.create_task(second.status("lot", LOCAL))
            await asyncio.sleep(14.9)
            assert not asked.done()
            with pytest.raises(Unavailable, match="another supervisor still manages the streams"):
                await asked
            assert workers.last.calls.count("run") == 1
            await first.stop()
            await first.close()
            assert (await second.status("lot", LOCAL)).state == "running"
            assert workers.last.calls.count("run") == 2
    assert len(workers.started) == 1


async def test_counters_come_from_the_store_until_a_worker_answers(tmp_path: Path) -> None:
    store = StreamStore(tmp_path)
    over = StreamStatus(stream_id="over", state="completed", source="a.mp4", policy="wait", processed=60)
    store.put(Record(spec=spec_of("over"), ended=over))
    store.put(Record(spec=spec_of("paused", paused=True), restarts=3))
    for stream_id in ("over", "paused"):
        bookmark_file = store.bookmark_file(stream_id)
        bookmark_file.write(Bookmark(next_frame_id=9, processed=8, dropped={"newer_frame": 1}))
        bookmark_file.close()
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        statuses = await supervision.all(LOCAL)
    assert statuses[0] == over
    assert (statuses[1].captured, statuses[1].processed, statuses[1].dropped) == (9, 8, {"newer_frame": 1})
    assert (statuses[1].state, statuses[1].restarts) == ("paused", 3)
    assert workers.started == []


async def test_deleting_an_application_stops_its_workers_and_keeps_its_streams(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.is_gone = True
    assert workers.alive == {}
    assert "stop" in workers.last.calls
    workers.is_gone = False
    async with supervising(tmp_path, workers) as supervision:
        assert (await supervision.status("lot", LOCAL)).state == "running"


async def test_a_rollout_stops_no_worker(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
    assert "stop" not in workers.last.calls
    assert not workers.last.is_dead


async def test_no_worker_is_started_after_the_deletion_of_its_application(tmp_path: Path) -> None:
    """The supervision must start no worker, even if the old worker's process ends after the deletion."""
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.is_gone = True
        workers.immortal.add("lot:0")
    workers.immortal.clear()
    await asyncio.sleep(100)
    assert len(workers.started) == 1


async def test_a_stream_whose_source_is_no_longer_allowed_fails_and_its_worker_ends(tmp_path: Path) -> None:
    record = Record(spec=spec_of(source=SourceSpec(uri="/etc/hostname")))
    StreamStore(tmp_path).put(record)
    workers = FakeWorkers()
    start_stray(workers, record)
    async with supervising(tmp_path, workers) as supervision:
        status = await supervision.status("lot", LOCAL)
        assert status.state == "failed"
        assert "SERVE_APP_MEDIA_DIRS" in status.detail
        assert workers.alive == {}
        with pytest.raises(SourceError, match="SERVE_APP_MEDIA_DIRS"):
            await supervision.resume("lot", LOCAL)
    assert len(workers.started) == 1


async def test_a_stream_whose_source_has_come_back_can_be_resumed(tmp_path: Path) -> None:
    video = tmp_path / "a.avi"
    StreamStore(tmp_path / "state").put(Record(spec=spec_of(source=SourceSpec(uri=str(video)))))
    workers = FakeWorkers()
    async with supervising(tmp_path / "state", workers, media_dirs=str(tmp_path)) as supervision:
        assert (await supervision.status("lot", LOCAL)).detail == "file a.avi does not exist"
        video.touch()
        assert (await supervision.resume("lot", LOCAL)).state == "starting"
        await asyncio.sleep(1)
        assert (await supervision.status("lot", LOCAL)).state == "running"


async def test_a_stream_whose_model_is_no_longer_deployed_is_refused_each_time_it_is_resumed(tmp_path: Path) -> None:
    """Test a former bug: the second request was accepted, because the stream was treated as running."""
    StreamStore(tmp_path).put(Record(spec=spec_of(detect=DetectSettings(model="cars"))))
    async with supervising(tmp_path) as supervision:
        for _ in range(2):
            with pytest.raises(InvalidParameter, match="model 'cars' is not currently deployed"):
                await supervision.resume("lot", LOCAL)
            assert (await supervision.status("lot", LOCAL)).state == "failed"


async def test_a_supervisor_that_cannot_take_over_is_not_healthy(tmp_path: Path) -> None:
    class Unknown(FakeWorkers):
        async def running(self) -> NoReturn:
            raise WorkerUnreachable("the Ray head is unreachable")

    async with supervising(tmp_path, Unknown()) as supervision:
        supervision.check()
        await asyncio.sleep(1)
        with pytest.raises(WorkerUnreachable):
            supervision.check()
