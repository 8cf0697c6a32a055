"""Streams that a new process continues after the old process stopped or died."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serve_app.schemas.streams import Recording
from serve_app.streams.stream import Stream
from tests.support.local_streams import EVERYWHERE, FRAMES, FakeDetector, all_events, new_stream, running

pytestmark = pytest.mark.anyio


async def test_the_next_process_continues_and_reports_the_lost_frame(video: Path) -> None:
    died = new_stream(video, detector := FakeDetector())
    detector.asked = lambda: dying.cancel() if len(detector.seen) == 7 else None  # die while frame 7 is in flight
    dying = asyncio.create_task(died._detect_frames())
    died._loop = asyncio.get_running_loop()
    await asyncio.gather(dying, return_exceptions=True)
    died.stop()
    detector.close()
    before = await all_events(died)

    stream = new_stream(video, next_detector := FakeDetector())
    await stream.run()
    assert (detector.seen, next_detector.seen) == (list(range(7)), list(range(8, FRAMES)))
    status = stream.status()
    assert (status.captured, status.processed, status.dropped) == (FRAMES, FRAMES - 1, {"restart": 1})
    after = await all_events(stream)
    (gap,) = (event for event in after if event["type"] == "gap")
    assert (gap["next_frame_id"], gap["lost"]) == (8, 1)
    assert 0 < gap["away_s"] < 30
    assert before[-1]["event_id"] < after[0]["event_id"]


async def test_the_next_process_after_a_stop_loses_nothing(video: Path) -> None:
    first = new_stream(video, FakeDetector(), loop=True)
    async with running(first):
        while first.status().processed < 5:
            await asyncio.sleep(0)
    stopped = first.status()
    second = new_stream(video, FakeDetector(), loop=True)
    async with running(second):
        while second.status().processed < stopped.processed + 5:
            await asyncio.sleep(0)
    assert second.status().dropped.get("restart", 0) == 0
    (gap,) = (event for event in await all_events(second) if event["type"] == "gap")
    assert (gap["next_frame_id"], gap["lost"]) == (stopped.processed, 0)


@pytest.mark.parametrize("fields", [{"max_fps": 3}, {"policy": "drop_oldest"}, {}], ids=str)
async def test_no_frame_of_a_file_counts_twice_across_restarts(video: Path, fields: dict[str, Any]) -> None:
    for until in (2, 4):
        stream = new_stream(video, FakeDetector(), **fields)
        async with running(stream):
            while stream.status().processed < until and stream.status().state != "completed":
                await asyncio.sleep(0)
    last = new_stream(video, FakeDetector(), **fields)
    await last.run()
    status = last.status()
    assert (status.state, status.captured) == ("completed", FRAMES)
    assert status.processed + sum(status.dropped.values()) == FRAMES


async def test_no_event_id_is_given_twice(video: Path) -> None:
    first = new_stream(video, FakeDetector(), loop=True, recording=Recording(pre_roll_s=0))
    async with running(first):
        while first.status().processed < 3:
            await asyncio.sleep(0)
    before = await all_events(first)
    assert before[-1]["type"] == "recording"  # the end of the stream finished the clip
    second = new_stream(video, FakeDetector())
    await second.run()
    assert (await all_events(second))[0]["event_id"] == before[-1]["event_id"] + 1


def track_id(stream: Stream) -> int:
    """Return the track id of the first object in the stream's latest result."""
    latest = stream.status().latest
    assert latest is not None
    found = latest.detections[0].track_id
    assert found is not None
    return found


async def test_track_ids_and_counts_continue(video: Path) -> None:
    first = new_stream(video, FakeDetector(), zones=[EVERYWHERE], loop=True)
    async with running(first):
        while not ((latest := first.status().latest) and latest.detections[0].track_id):
            await asyncio.sleep(0)
    second = new_stream(video, FakeDetector(), zones=[EVERYWHERE], loop=True)
    async with running(second):
        while second.status().zones["all"].entered == first.status().zones["all"].entered:
            await asyncio.sleep(0)
    assert track_id(second) > track_id(first)
