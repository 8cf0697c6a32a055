"""One stream at work, with a detector of this process."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from serve_app.config import StreamArgs
from serve_app.errors import InvalidParameter, ModelChanged, Overloaded
from serve_app.ipc.frame_pool import FramePool, Slot
from serve_app.network.address_guard import Guard
from serve_app.schemas.streams import Motion, Recording, Regions, SourceSpec, StreamSpec, Zone
from serve_app.streams import stream as stream_module
from serve_app.streams.capture.source import parse_source
from serve_app.streams.store import StreamStore
from serve_app.streams.stream import Stream, check_outputs
from serve_app.types import Answer, Detections, DetectOptions, Event, Letterbox, ModelInfo
from tests.support import squares
from tests.support.videos import frame_of, frame_shown, save_video

pytestmark = pytest.mark.anyio
FRAMES = 20
MODEL = ModelInfo("fake", "1", "fake", squares.LABELS, squares.SIZE_PX, True)
EVERYWHERE = Zone(name="all", polygon=[(0, 0), (1, 0), (1, 1), (0, 1)])


class FakeDetector:
    """Finds the one square of a frame, once ``failures`` are used up."""

    def __init__(self, failures: list[Exception] | None = None) -> None:
        self.pool = FramePool(1, squares.SIZE_PX)
        self.failures = failures or []
        self.seen: list[int] = []
        self.given_up = 0
        self.asked: Callable[[], None] = lambda: None
        self.info = MODEL  # the one that serves, and the one that was asked last:
        self.known: ModelInfo | None = None

    async def connect(self) -> ModelInfo:
        self.known = self.info
        return self.known

    async def model(self, time_left_s: float) -> ModelInfo:
        return self.known or await self.connect()

    def forget_model(self) -> None:
        self.known = None

    async def detect(
        self, slot: Slot, box: Letterbox, model: ModelInfo, options: DetectOptions, *, time_left_s: float, given_up: int
    ) -> Answer:
        self.given_up += given_up
        self.asked()
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        number = frame_shown(slot.pixels)
        self.seen.append(number)
        x, y = squares.STRIDE_PX * (number % 30), squares.STRIDE_PX * (number // 30)
        corners = np.array([[x, y, x + squares.SIDE_PX, y + squares.SIDE_PX]], np.float32)
        found = Detections(corners, np.ones(1, np.float32), np.zeros(1, np.int32))
        timing_s = {"queue": 0.0, "inference": 0.0, "postprocess": 0.0}
        return Answer(found, ("red",), squares.SIZE_PX, squares.SIZE_PX, "fake", 1, timing_s)

    def close(self) -> None:
        self.pool.close()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return save_video(tmp_path / "a.avi", frames=FRAMES, fps=10)


def make(video: Path, detector: FakeDetector, **fields: Any) -> Stream:
    """As a process of its own would: from what the store knows."""
    spec = StreamSpec(id="lot", source=SourceSpec(uri=str(video), loop=fields.pop("loop", False)), **fields)
    bookmark = StreamStore(video.parent / "state").bookmark("lot")
    args = StreamArgs(output_dir=video.parent)
    return Stream(spec, parse_source(str(video), (Path("/"),)), detector, bookmark, args, Guard())


@asynccontextmanager
async def running(stream: Stream) -> AsyncIterator[asyncio.Task[None]]:
    async with asyncio.timeout(30):
        task = asyncio.create_task(stream.run())
        try:
            yield task
        finally:
            stream.stop()
            await task


async def all_events(stream: Stream, after: int = -1) -> list[dict[str, Any]]:
    events: list[Event] = []
    while (page := await stream.events(after, 0)).events:
        events += page.events
        after = events[-1].event_id
    return [json.loads(event.json) for event in events]


async def test_every_frame_has_its_result_and_its_event(video: Path) -> None:
    stream = make(video, FakeDetector())
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


async def test_a_frame_is_asked_for_until_it_is_answered(video: Path) -> None:
    detector = FakeDetector([Overloaded("full"), Overloaded("full")])
    stream = make(video, detector)
    await stream.run()
    assert detector.seen == list(range(FRAMES))


async def test_a_frame_on_which_the_engine_fails_is_counted(video: Path) -> None:
    stream = make(video, FakeDetector([RuntimeError("bad frame")]))
    await stream.run()
    assert (stream.status().processed, stream.status().dropped) == (FRAMES - 1, {"error": 1})


async def test_who_takes_over_goes_on_and_says_what_is_lost(video: Path) -> None:
    died = make(video, detector := FakeDetector())
    detector.asked = lambda: dying.cancel() if len(detector.seen) == 7 else None  # while frame 7 is under way
    dying = asyncio.create_task(died._detect_until_the_end())
    died._loop = asyncio.get_running_loop()
    await asyncio.gather(dying, return_exceptions=True)
    died.stop()
    detector.close()
    before = await all_events(died)

    stream = make(video, heir := FakeDetector())
    await stream.run()
    assert (detector.seen, heir.seen) == (list(range(7)), list(range(8, FRAMES)))
    status = stream.status()
    assert (status.captured, status.processed, status.dropped) == (FRAMES, FRAMES - 1, {"restart": 1})
    after = await all_events(stream)
    (gap,) = (event for event in after if event["type"] == "gap")
    assert (gap["next_frame_id"], gap["lost"]) == (8, 1)
    assert 0 < gap["away_s"] < 30
    assert before[-1]["event_id"] < after[0]["event_id"]


async def test_who_takes_over_after_a_stop_has_lost_nothing(video: Path) -> None:
    first = make(video, FakeDetector(), loop=True)
    async with running(first):
        while first.status().processed < 5:
            await asyncio.sleep(0)
    stopped = first.status()
    second = make(video, FakeDetector(), loop=True)
    async with running(second):
        while second.status().processed < stopped.processed + 5:
            await asyncio.sleep(0)
    assert second.status().dropped.get("restart", 0) == 0
    (gap,) = (event for event in await all_events(second) if event["type"] == "gap")
    assert (gap["next_frame_id"], gap["lost"]) == (stopped.processed, 0)


@pytest.mark.parametrize("fields", [{"max_fps": 3}, {"policy": "drop_oldest"}, {}], ids=str)
async def test_no_frame_counts_twice_in_a_file_that_is_left_and_taken_up_again(
    video: Path, fields: dict[str, Any]
) -> None:
    for until in (2, 4):
        stream = make(video, FakeDetector(), **fields)
        async with running(stream):
            while stream.status().processed < until and stream.status().state != "completed":
                await asyncio.sleep(0)
    last = make(video, FakeDetector(), **fields)
    await last.run()
    status = last.status()
    assert (status.state, status.captured) == ("completed", FRAMES)
    assert status.processed + sum(status.dropped.values()) == FRAMES


async def test_the_detector_hears_of_the_frames_that_gave_way_while_it_was_busy(video: Path) -> None:
    detector = FakeDetector()
    stream = make(video, detector, policy="drop_oldest")

    def wait() -> None:
        while stream.status().captured < FRAMES:
            time.sleep(0.001)

    detector.asked = wait
    await stream.run()
    assert detector.given_up == stream.status().dropped["newer_frame"] > 0


async def test_no_event_id_is_given_twice(video: Path) -> None:
    first = make(video, FakeDetector(), loop=True, recording=Recording(pre_roll_s=0))
    async with running(first):
        while first.status().processed < 3:
            await asyncio.sleep(0)
    before = await all_events(first)
    assert before[-1]["type"] == "recording"  # finished as the stream ended
    second = make(video, FakeDetector())
    await second.run()
    assert (await all_events(second))[0]["event_id"] == before[-1]["event_id"] + 1


async def test_track_ids_and_counts_go_on(video: Path) -> None:
    first = make(video, FakeDetector(), zones=[EVERYWHERE], loop=True)
    async with running(first):
        while not (first.status().latest and first.status().latest.detections[0].track_id):
            await asyncio.sleep(0)
    second = make(video, FakeDetector(), zones=[EVERYWHERE], loop=True)
    async with running(second):
        while second.status().zones["all"].entered == first.status().zones["all"].entered:
            await asyncio.sleep(0)
    assert second.status().latest.detections[0].track_id > first.status().latest.detections[0].track_id


async def test_zones_are_changed_while_it_runs(video: Path) -> None:
    stream = make(video, FakeDetector(), loop=True)
    async with running(stream):
        while stream.status().processed < 3:
            await asyncio.sleep(0)
        await stream.set_regions(Regions(zones=[EVERYWHERE]))
        while not stream.status().zones["all"].entered:
            await asyncio.sleep(0)
        after = (await stream.events(None, 10)).last_id - 20
        await stream.set_regions(Regions())
        assert stream.status().zones == {}
    assert any(event["type"] == "zone" for event in await all_events(stream, after - 500))


async def test_frames_in_which_nothing_moves_skip_the_model_and_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "still"
    folder.mkdir()
    picture = squares.encode(squares.picture([squares.Square("red", 3, 3)]))
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(picture)
    stream = make(folder, detector := FakeDetector(), motion=Motion())
    await stream.run()
    assert len(detector.seen) == 1
    assert stream.status().dropped == {"no_motion": 9}


async def test_the_newest_frame_is_shown_with_its_boxes(video: Path) -> None:
    stream = make(video, FakeDetector())
    assert await stream.snapshot(None, 0.01, boxes=True) is None
    await stream.run()
    plain, drawn = await stream.snapshot(None, 1, boxes=False), await stream.snapshot(None, 1, boxes=True)
    assert plain.frame_id == drawn.frame_id == FRAMES - 1
    pixels = cv2.imdecode(np.frombuffer(plain.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert frame_shown(pixels) == FRAMES - 1
    assert plain.jpeg != drawn.jpeg
    assert await stream.snapshot(FRAMES - 1, 0.01, boxes=True) is None


async def test_a_class_that_the_model_does_not_know_is_the_end(video: Path) -> None:
    stream = make(video, FakeDetector(), detect={"classes": ["unicorn"]})
    await stream.run()
    assert stream.status().state == "failed"
    assert "unicorn" in stream.status().detail


async def test_a_fault_of_ours_ends_the_process_which_is_started_again(video: Path) -> None:
    class Broken(FakeDetector):
        async def connect(self) -> ModelInfo:
            raise RuntimeError("a bug")

    stream = make(video, Broken())
    with pytest.raises(RuntimeError, match="a bug"):
        await stream.run()
    assert stream.status().detail == "internal error: RuntimeError"


async def test_events_go_to_a_file_and_clips_are_recorded(video: Path) -> None:
    sink = {"type": "jsonl", "events": ["result", "recording"]}
    stream = make(video, FakeDetector(), sinks=[sink], recording=Recording(pre_roll_s=0, max_fps=30))
    await stream.run()
    lines = [json.loads(line) for line in (video.parent / "lot/events.jsonl").read_text().splitlines()]
    assert [line["frame_id"] for line in lines if line["type"] == "result"] == list(range(FRAMES))
    (started, finished) = (line for line in lines if line["type"] == "recording")
    assert (started["change"], finished["change"]) == ("started", "finished")
    assert (video.parent / "lot" / finished["clip"]).is_file()
    (status,) = stream.status().sinks
    assert (status.sent, status.waiting, status.dropped) == (FRAMES + 2, 0, {})


def test_files_need_a_folder() -> None:
    source = SourceSpec(uri="a.mp4")
    for fields in ({"recording": {}}, {"sinks": [{"type": "jsonl"}]}):
        with pytest.raises(InvalidParameter, match="SERVE_APP_OUTPUT_DIR"):
            check_outputs(StreamSpec(source=source, **fields), None, Guard())
    check_outputs(StreamSpec(source=source), None, Guard())


async def test_a_stream_waits_while_a_model_serves_that_does_not_know_its_classes(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_OTHER_MODEL_PAUSE_S", 0.01)
    detector = FakeDetector()
    stream = make(video, detector, detect={"classes": ["red"]})

    def change() -> None:
        detector.asked = lambda: None
        detector.info = dataclasses.replace(MODEL, version="2", labels=("cat",))
        detector.failures, detector.known = [ModelChanged("changed")], None

    detector.asked = change
    async with running(stream) as task:
        while stream.status().state != "blocked":
            await asyncio.sleep(0.01)
        assert "knows no class 'red'" in stream.status().detail
        detector.info = MODEL
        await task
    assert detector.seen == list(range(FRAMES))
    assert stream.status().state == "completed"


async def test_a_stream_that_gives_up_its_frame_closes_what_it_opened(video: Path, tmp_path: Path) -> None:
    class Hanging(FakeDetector):
        async def detect(self, *args: Any, **options: Any) -> Answer:
            await asyncio.Event().wait()
            raise AssertionError

    detector = Hanging()
    stream = make(video, detector, sinks=[{"type": "jsonl"}])
    async with running(stream) as task:
        while detector.pool.leased == 0:
            await asyncio.sleep(0.01)
        stream.stop()
        stream.give_up()
        await task
    assert detector.pool.leased == 0
    written = [json.loads(line) for line in (video.parent / "lot/events.jsonl").read_text().splitlines()]
    assert [event["event_id"] for event in written] == [event["event_id"] for event in await all_events(stream)]
