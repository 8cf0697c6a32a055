"""Clients' requests for streams. The tests run in virtual time."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.detections import Detections
from serve_app.errors import Conflict, InvalidParameter, NotFound, Overloaded, SourceError, StartError, Unavailable
from serve_app.schemas.detect import DetectSettings
from serve_app.schemas.streams import Line, Regions, SourceSpec, StreamResult, StreamSpec
from serve_app.streams.bookmark import Bookmark
from serve_app.streams.store import StreamStore
from serve_app.types import Answer, Frame, InputShape, Position, Timing
from tests.support.fake_workers import FakeDetectors, FakeWorkers, Reports, now_s, spec_of, supervising
from tests.support.principals import LOCAL
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return BACKEND


GATE = Regions(lines=[Line(name="gate", start=(0, 0), end=(1, 1))])
DOOR = Regions(lines=[Line(name="door", start=(0, 0), end=(0, 1))])


def stored(folder: Path) -> dict[str, StreamSpec]:
    """Return the spec of each stream in the store."""
    return {record.spec.id: record.spec for record in StreamStore(folder).records()}


async def test_a_created_stream_is_stored_and_runs(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        created = await supervision.create(spec_of(tags={"site": "north"}), LOCAL)
        assert (created.state, created.policy, created.tags) == ("starting", "drop_oldest", {"site": "north"})
        assert stored(tmp_path) == {"lot": spec_of(tags={"site": "north"})}
        await asyncio.sleep(1)
        assert (await supervision.status("lot", LOCAL)).state == "running"
        with pytest.raises(Conflict):
            await supervision.create(spec_of(), LOCAL)
    assert workers.last.calls.count("run") == 1


async def test_streams_are_listed_by_id(tmp_path: Path) -> None:
    async with supervising(tmp_path) as supervision:
        for stream_id in "bca":
            await supervision.create(spec_of(stream_id), LOCAL)
        assert [status.stream_id for status in await supervision.all(LOCAL)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("spec", "error", "sentence"),
    [
        (spec_of(source=SourceSpec(uri="/etc/hostname")), SourceError, "SERVE_APP_MEDIA_DIRS"),
        (spec_of(detect=DetectSettings(model="cars")), InvalidParameter, "model 'cars' is not currently deployed"),
        (spec_of(detect=DetectSettings(classes=["unicorn"])), InvalidParameter, "unicorn"),
        (spec_of(recording={}), InvalidParameter, "SERVE_APP_OUTPUT_DIR"),
    ],
)
async def test_a_stream_that_cannot_run_is_refused(
    spec: StreamSpec, error: type[Exception], sentence: str, tmp_path: Path
) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        with pytest.raises(error, match=sentence):
            await supervision.create(spec, LOCAL)
        assert await supervision.all(LOCAL) == []
    assert (stored(tmp_path), workers.started) == ({}, [])


async def test_a_stream_that_needs_tracking_is_refused_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervising(tmp_path) as supervision:
        await supervision.create(spec_of(), LOCAL)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InvalidParameter, match="sightline\\[tracking\\]"):
            await supervision.create(spec_of("yard", track=True), LOCAL)
        with pytest.raises(InvalidParameter, match="sightline\\[tracking\\]"):
            await supervision.set_regions("lot", LOCAL, GATE)
    assert stored(tmp_path) == {"lot": spec_of()}


async def test_a_full_registry_refuses_until_a_stream_is_deleted(tmp_path: Path) -> None:
    async with supervising(tmp_path, max_streams=2) as supervision:
        await supervision.create(spec_of("a"), LOCAL)
        await supervision.create(spec_of("b", paused=True), LOCAL)
        with pytest.raises(Overloaded, match=r"streams\.max_streams"):
            await supervision.create(spec_of("c"), LOCAL)
        await supervision.delete("b", LOCAL)
        await supervision.create(spec_of("c"), LOCAL)


async def test_streams_are_admitted_one_at_a_time(tmp_path: Path) -> None:
    """Concurrent requests must be admitted one by one. Otherwise, they would all get the same free capacity."""
    detectors = FakeDetectors(capacity_fps=20, replicas=2)
    detectors.answer_after_s = 0.5
    async with supervising(tmp_path, detectors=detectors) as supervision:
        creations = (supervision.create(spec_of(f"lot-{number}"), LOCAL) for number in range(3))
        results = await asyncio.gather(*creations, return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["StreamStatus", "Overloaded", "Overloaded"]
        await supervision.create(spec_of("slow", max_fps=15), LOCAL)
        with pytest.raises(Overloaded):
            await supervision.replace(spec_of("slow", max_fps=16), LOCAL)
        await supervision.create(spec_of("any", degrade=True), LOCAL)


async def test_streams_of_other_models_and_paused_streams_use_no_capacity(tmp_path: Path) -> None:
    async with supervising(tmp_path, detectors=FakeDetectors(capacity_fps=30)) as supervision:
        await supervision.create(spec_of("plates", detect=DetectSettings(model="plates")), LOCAL)
        await supervision.create(spec_of("a"), LOCAL)
        await supervision.pause("a", LOCAL)
        await supervision.create(spec_of("b"), LOCAL)
        with pytest.raises(Overloaded):
            await supervision.resume("a", LOCAL)
        assert (await supervision.status("a", LOCAL)).state == "paused"


async def test_a_stream_counts_by_the_input_of_its_latest_frame(tmp_path: Path) -> None:
    workers = FakeWorkers()
    frame = Frame(0, 0.0, 0.0, Position(0), lambda: np.zeros((1080, 1920, 3), np.uint8))
    answer = Answer(Detections.empty(), 1920, 1080, "fake", 1, Timing(), InputShape(384, 640))  # 0.6 of the square
    async with supervising(tmp_path, workers, detectors=FakeDetectors(capacity_fps=40)) as supervision:
        await supervision.create(spec_of("wide"), LOCAL)
        await asyncio.sleep(1)
        with pytest.raises(Overloaded):
            await supervision.create(spec_of("new"), LOCAL)
        workers.last.latest = StreamResult.from_answer(answer, frame, stream_id="wide")
        await supervision.status("wide", LOCAL)
        await supervision.create(spec_of("new"), LOCAL)


@pytest.mark.parametrize("answer_after_s", [1.9, 2.1])
async def test_detectors_that_do_not_answer_in_2_s_refuse_no_stream(answer_after_s: float, tmp_path: Path) -> None:
    detectors = FakeDetectors(capacity_fps=1)
    detectors.answer_after_s = answer_after_s
    async with supervising(tmp_path, detectors=detectors) as supervision:
        if answer_after_s < 2:
            with pytest.raises(Overloaded):
                await supervision.create(spec_of(), LOCAL)
        else:
            await supervision.create(spec_of(), LOCAL)


async def test_replace_stops_the_old_stream_first_and_keeps_its_event_ids(tmp_path: Path) -> None:
    workers = FakeWorkers()
    bookmark_file = StreamStore(tmp_path).bookmark_file("lot")
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        bookmark_file.write(Bookmark(next_frame_id=100, next_event_id=50))
        replaced = await supervision.replace(spec_of(max_fps=5), LOCAL)
        assert replaced.state == "starting"
        await asyncio.sleep(1)
    first, second = workers.started
    assert "stop" in first.calls
    assert workers.most_at_once == 1
    assert second.record.spec.max_fps == 5
    assert stored(tmp_path) == {"lot": spec_of(max_fps=5)}
    assert bookmark_file.read() == Bookmark(next_event_id=50)
    bookmark_file.close()


async def test_replace_keeps_the_old_stream_when_the_new_one_is_refused(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        with pytest.raises(InvalidParameter):
            await supervision.replace(spec_of(detect=DetectSettings(classes=["unicorn"])), LOCAL)
        await asyncio.sleep(1)
        assert (await supervision.status("lot", LOCAL)).state == "running"
    assert "stop" not in workers.last.calls
    assert stored(tmp_path) == {"lot": spec_of()}


async def test_a_replaced_stream_does_not_count_against_its_replacement(tmp_path: Path) -> None:
    async with supervising(tmp_path, detectors=FakeDetectors(capacity_fps=30)) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await supervision.replace(spec_of(tags={"site": "north"}), LOCAL)


async def test_the_deletion_of_a_stream_is_told_once(tmp_path: Path) -> None:
    deleted: list[str] = []
    async with supervising(tmp_path, on_deleted=deleted.append) as supervision:
        await supervision.create(spec_of("lot"), LOCAL)
        await supervision.replace(spec_of("lot", max_fps=5), LOCAL)
        assert deleted == []
        for _ in range(2):
            with suppress(NotFound):
                await supervision.delete("lot", LOCAL)
    assert deleted == ["lot"]


async def test_a_deleted_stream_leaves_no_worker_and_nothing_in_the_store(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        StreamStore(tmp_path).bookmark_file("lot").close()
        await asyncio.sleep(1)
        await supervision.delete("lot", LOCAL)
        assert workers.alive == {}
        assert "stop" in workers.last.calls
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
        with pytest.raises(NotFound):
            await supervision.status("lot", LOCAL)
        await asyncio.sleep(100)
    assert len(workers.started) == 1


async def test_the_second_of_two_concurrent_deletions_finds_nothing(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        results = await asyncio.gather(*(supervision.delete("lot", LOCAL) for _ in range(2)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), NotFound]


@pytest.mark.parametrize("change", ["pause", "delete", "set_regions", "replace"])
async def test_a_change_that_waits_while_the_stream_is_replaced_applies_to_the_new_one(
    change: str, tmp_path: Path
) -> None:
    """Test a former bug: the waiting change failed, because the stream did not seem to exist."""
    expected = {
        "pause": {"lot": spec_of(max_fps=5, paused=True)},
        "delete": {},
        "set_regions": {"lot": spec_of(max_fps=5, lines=GATE.lines)},
        "replace": {"lot": spec_of(max_fps=6)},
    }
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.stop_takes_s = 5
        replacing = asyncio.create_task(supervision.replace(spec_of(max_fps=5), LOCAL))
        await asyncio.sleep(1)
        changes: dict[str, Callable[[], Awaitable[Any]]] = {
            "pause": lambda: supervision.pause("lot", LOCAL),
            "delete": lambda: supervision.delete("lot", LOCAL),
            "set_regions": lambda: supervision.set_regions("lot", LOCAL, GATE),
            "replace": lambda: supervision.replace(spec_of(max_fps=6), LOCAL),
        }
        await changes[change]()
        assert replacing.done()
        await asyncio.sleep(1)
        assert len(workers.alive) == (1 if change in {"set_regions", "replace"} else 0)
    assert workers.most_at_once == 1
    assert stored(tmp_path) == expected[change]


async def test_a_paused_stream_has_no_worker_until_it_is_resumed(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        for _ in range(2):
            paused = await supervision.pause("lot", LOCAL)
            assert (paused.state, paused.camera_fps, paused.processed) == ("paused", 0, 7)
        assert workers.alive == {}
        assert stored(tmp_path)["lot"].paused
        await asyncio.sleep(100)
        assert (await supervision.events("lot", LOCAL, 3, 0.5)).last_id == 3
        for _ in range(2):
            assert (await supervision.resume("lot", LOCAL)).state == "starting"
        await asyncio.sleep(1)
        assert (await supervision.status("lot", LOCAL)).state == "running"
    assert len(workers.started) == 2
    assert not stored(tmp_path)["lot"].paused


async def test_a_stream_that_is_created_paused_does_not_start(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        assert (await supervision.create(spec_of(paused=True), LOCAL)).state == "paused"
        await asyncio.sleep(100)
    assert workers.started == []


async def test_a_failed_stream_can_be_resumed_but_a_completed_one_cannot(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.finish("failed")
        await asyncio.sleep(1)  # the process of the finished stream is still running
        assert (await supervision.resume("lot", LOCAL)).state == "starting"
        await asyncio.sleep(1)
        assert len(workers.started) == 2
        assert workers.most_at_once == 1
        workers.last.finish("completed")
        await asyncio.sleep(1)
        assert (await supervision.resume("lot", LOCAL)).state == "completed"
        await asyncio.sleep(100)
    assert len(workers.started) == 2


async def test_regions_are_stored_and_counted_at_once(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        await supervision.set_regions("lot", LOCAL, GATE)
        assert workers.last.regions == await supervision.regions("lot", LOCAL) == GATE
    assert stored(tmp_path) == {"lot": spec_of(lines=GATE.lines)}


async def test_regions_that_the_worker_refuses_are_refused_and_not_kept(tmp_path: Path) -> None:
    """Test a former bug: the refusal was ignored, and the client's request seemed to succeed."""
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(lines=DOOR.lines), LOCAL)
        await asyncio.sleep(1)
        workers.last.refusals["set_regions"] = StartError("no tracker")
        with pytest.raises(StartError, match="no tracker"):
            await supervision.set_regions("lot", LOCAL, GATE)
        assert workers.last.regions == await supervision.regions("lot", LOCAL) == DOOR
        workers.last.refusals.clear()
        workers.last.die()
        await asyncio.sleep(1)
        assert workers.last.regions == DOOR
    assert stored(tmp_path) == {"lot": spec_of(lines=DOOR.lines)}


async def test_regions_that_did_not_reach_the_worker_are_used_by_the_next_one(tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with supervising(tmp_path, workers) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(1)
        workers.last.cut_off()
        with pytest.raises(Unavailable, match="the regions are saved and apply when it restarts"):
            await supervision.set_regions("lot", LOCAL, GATE)
        workers.last.die()
        await asyncio.sleep(2)
        assert len(workers.started) == 2
        assert workers.last.regions == GATE


async def test_requests_to_a_stream_without_a_worker_wait_at_most_1_s(tmp_path: Path) -> None:
    async with supervising(tmp_path) as supervision:
        await supervision.create(spec_of(paused=True), LOCAL)
        for within_s in (0.3, 30):
            started_at_s = now_s()
            assert await supervision.snapshot("lot", LOCAL, None, within_s, True) is None
            assert now_s() - started_at_s == pytest.approx(min(within_s, 1))


async def test_each_streams_status_is_reported_every_few_seconds_with_the_previous_one(tmp_path: Path) -> None:
    workers, reports = FakeWorkers(), Reports()
    async with supervising(tmp_path, workers, reports=reports) as supervision:
        await supervision.create(spec_of(), LOCAL)
        await asyncio.sleep(11)
        await supervision.pause("lot", LOCAL)
        await asyncio.sleep(5)
    assert [(status.state, previous and previous.state) for status, previous in reports] == [
        ("running", None), ("running", "running"), ("paused", "running"),
    ]  # fmt: skip
