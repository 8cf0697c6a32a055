"""One running stream, with a fake detector in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from serve_app.collect_args import CollectArgs
from serve_app.collection.collector import Collector
from serve_app.errors import InvalidParameter, ModelChanged, Overloaded, StartError
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.decoding import DecodingStatus
from serve_app.schemas.streams import Motion, Recording, Regions, SourceSpec, StreamSpec
from serve_app.streams import stream as stream_module
from serve_app.streams.outputs.checks import check_outputs
from serve_app.streams.scene.scene import Scene
from serve_app.types import Answer, ModelInfo
from tests.support import squares
from tests.support.local_streams import EVERYWHERE, FRAMES, MODEL, FakeDetector, all_events, new_stream, running
from tests.support.videos import frame_of, frame_shown, save_coded_video

pytestmark = pytest.mark.anyio


async def test_every_frame_has_a_result_and_an_event(video: Path) -> None:
    stream = new_stream(video, FakeDetector())
    await stream.run()
    status = stream.status()
    assert (status.state, status.captured, status.processed, status.dropped) == ("completed", FRAMES, FRAMES, {})
    events = await all_events(stream)
    assert [event["event_id"] for event in events] == list(range(len(events)))
    results = [event for event in events if event["type"] == "result"]
    assert [event["frame_id"] for event in results] == list(range(FRAMES))
    boxes = [event["detections"][0]["bbox"] for event in results]
    assert [frame_of(box["x1"], box["y1"]) for box in boxes] == list(range(FRAMES))
    states = [event["state"] for event in events if event["type"] == "state"]
    assert states[-1] == "completed"


async def test_a_frame_is_retried_until_the_detector_answers(video: Path) -> None:
    detector = FakeDetector([Overloaded("full"), Overloaded("full")])
    stream = new_stream(video, detector)
    await stream.run()
    assert detector.seen == list(range(FRAMES))


async def test_a_frame_on_which_the_engine_fails_is_counted(video: Path) -> None:
    stream = new_stream(video, FakeDetector([RuntimeError("bad frame")]))
    await stream.run()
    assert (stream.status().processed, stream.status().dropped) == (FRAMES - 1, {"error": 1})


async def test_the_detector_is_told_how_many_frames_were_superseded(video: Path) -> None:
    detector = FakeDetector()
    stream = new_stream(video, detector, policy="drop_oldest")

    def wait() -> None:
        while stream.status().captured < FRAMES:
            time.sleep(0.001)

    detector.asked = wait
    await stream.run()
    assert detector.superseded == stream.status().dropped["newer_frame"] > 0


async def test_the_status_says_which_frames_of_a_video_are_decoded(tmp_path: Path) -> None:
    path = save_coded_video(tmp_path / "a.mp4", frames=30, keys=range(0, 30, 5))
    stream = new_stream(path, FakeDetector(), max_fps=5)
    assert stream.status().decoding is None
    await stream.run()
    assert stream.status().decoding == DecodingStatus(frames="key_frames", hardware=None, detail="")


async def test_the_status_counts_the_files_of_a_folder_that_are_not_images(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "0.jpe").write_bytes(squares.encode(squares.picture([squares.Square("red", 3, 3)])))
    (folder / "1.heic").write_bytes(b"\0\0\0\x18ftypheic, and no more")
    (folder / "notes.txt").write_text("no image")
    stream = new_stream(folder, FakeDetector())
    await stream.run()
    status = stream.status()
    assert (status.captured, status.processed, sum(status.dropped.values()), status.passed_over) == (2, 1, 1, 1)


async def test_zones_can_be_changed_while_the_stream_runs(video: Path) -> None:
    stream = new_stream(video, FakeDetector(), loop=True)
    async with running(stream):
        while stream.status().processed < 3:
            await asyncio.sleep(0)
        await stream.set_regions(Regions(zones=[EVERYWHERE]))
        while not stream.status().zones["all"].entered:
            await asyncio.sleep(0)
        last_id = (await stream.events(None, 10)).last_id
        assert last_id is not None
        after = last_id - 20
        await stream.set_regions(Regions())
        assert stream.status().zones == {}
    assert any(event["type"] == "zone" for event in await all_events(stream, after - 500))


async def test_refused_regions_leave_the_previous_ones_in_use(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StartError("tracking is not installed")

    stream = new_stream(video, FakeDetector(), loop=True)
    async with running(stream):
        while stream.status().processed < 3:
            await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            patch.setattr(Scene, "_make_tracker", refuse)
            with pytest.raises(StartError):
                await stream.set_regions(Regions(zones=[EVERYWHERE]))
        assert (stream.status().zones, stream._spec.zones) == ({}, [])


async def test_frames_in_which_nothing_moves_skip_the_model_and_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "still"
    folder.mkdir()
    picture = squares.encode(squares.picture([squares.Square("red", 3, 3)]))
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(picture)
    stream = new_stream(folder, detector := FakeDetector(), motion=Motion())
    await stream.run()
    assert len(detector.seen) == 1
    assert stream.status().dropped == {"no_motion": 9}


async def test_the_newest_frame_is_shown_with_its_boxes(video: Path) -> None:
    stream = new_stream(video, FakeDetector())
    assert await stream.snapshot(None, 0.01, boxes=True) is None
    await stream.run()
    plain, drawn = await stream.snapshot(None, 1, boxes=False), await stream.snapshot(None, 1, boxes=True)
    assert plain is not None
    assert drawn is not None
    assert plain.frame_id == drawn.frame_id == FRAMES - 1
    pixels = cv2.imdecode(np.frombuffer(plain.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert frame_shown(pixels) == FRAMES - 1
    assert plain.jpeg != drawn.jpeg
    assert await stream.snapshot(FRAMES - 1, 0.01, boxes=True) is None


async def test_a_class_that_the_model_lacks_fails_the_stream(video: Path) -> None:
    stream = new_stream(video, FakeDetector(), detect={"classes": ["unicorn"]})
    await stream.run()
    assert stream.status().state == "failed"
    assert "unicorn" in stream.status().detail


async def test_an_unexpected_error_is_raised_so_that_the_process_is_restarted(video: Path) -> None:
    class Broken(FakeDetector):
        async def connect(self) -> ModelInfo:
            raise RuntimeError("a bug")

    stream = new_stream(video, Broken())
    with pytest.raises(RuntimeError, match="a bug"):
        await stream.run()
    assert stream.status().detail == "internal error: RuntimeError"


async def test_events_go_to_a_file_and_clips_are_recorded(video: Path) -> None:
    sink = {"type": "jsonl", "events": ["result", "recording"]}
    stream = new_stream(video, FakeDetector(), sinks=[sink], recording=Recording(pre_roll_s=0, max_fps=30))
    await stream.run()
    lines = [json.loads(line) for line in (video.parent / "lot/events.jsonl").read_text().splitlines()]
    assert [line["frame_id"] for line in lines if line["type"] == "result"] == list(range(FRAMES))
    (started, finished) = (line for line in lines if line["type"] == "recording")
    assert (started["change"], finished["change"]) == ("started", "finished")
    assert (video.parent / "lot" / finished["clip"]).is_file()
    (status,) = stream.status().sinks
    assert (status.sent, status.waiting, status.dropped) == (FRAMES + 2, 0, {})


def test_files_need_an_existing_output_folder(tmp_path: Path) -> None:
    source = SourceSpec(uri="a.mp4")
    outputs: list[dict[str, Any]] = [{"recording": {}}, {"sinks": [{"type": "jsonl"}]}]
    for fields in outputs:
        with pytest.raises(InvalidParameter, match="SERVE_APP_OUTPUT_DIR"):
            check_outputs(StreamSpec(source=source, **fields), None, AddressGuard())
        with pytest.raises(InvalidParameter, match="does not exist") as refusal:
            check_outputs(StreamSpec(source=source, **fields), tmp_path / "unmounted", AddressGuard())
        assert str(tmp_path) not in refusal.value.detail
        check_outputs(StreamSpec(source=source, **fields), tmp_path, AddressGuard())
    check_outputs(StreamSpec(source=source), tmp_path / "unmounted", AddressGuard())


async def test_a_stream_waits_while_the_served_model_lacks_its_classes(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_OTHER_MODEL_PAUSE_S", 0.01)
    detector = FakeDetector()
    stream = new_stream(video, detector, detect={"classes": ["red"]})

    def change() -> None:
        detector.asked = lambda: None
        detector.info = dataclasses.replace(
            MODEL, version="2", engine=dataclasses.replace(MODEL.engine, labels=("cat",))
        )
        detector.failures, detector.known = [ModelChanged("changed")], None

    detector.asked = change
    async with running(stream) as task:
        while stream.status().state != "blocked":
            await asyncio.sleep(0.01)
        assert "has no class 'red'" in stream.status().detail
        detector.info = MODEL
        await task
    assert detector.seen == list(range(FRAMES))
    assert stream.status().state == "completed"


async def test_an_aborted_stream_closes_everything_it_opened(video: Path, tmp_path: Path) -> None:
    class Hanging(FakeDetector):
        async def detect(self, *args: Any, **options: Any) -> Answer:
            await asyncio.Event().wait()
            raise AssertionError

    detector = Hanging()
    stream = new_stream(video, detector, sinks=[{"type": "jsonl"}])
    async with running(stream) as task:
        while detector.pool.leased == 0:
            await asyncio.sleep(0.01)
        stream.stop()
        stream.abort()
        await task
    assert detector.pool.leased == 0
    written = [json.loads(line) for line in (video.parent / "lot/events.jsonl").read_text().splitlines()]
    assert [event["event_id"] for event in written] == [event["event_id"] for event in await all_events(stream)]


async def test_frames_that_are_worth_a_look_are_kept(video: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    collector = Collector(CollectArgs(folder=tmp_path / "kept"), max_pixels=10**6)
    stream = new_stream(video, FakeDetector(), collector=collector)
    await stream.run()
    assert (stream.status().processed, collector.kept) == (FRAMES, {"new_class": 1, "uncertain": 0, "drifted": 0})
    (path,) = (tmp_path / "kept").glob("*/images/*-new_class-lot-*.jpg")
    pixels = cv2.imread(str(path))
    assert pixels is not None
    assert frame_shown(pixels) == 0
