"""Streams whose model segments, finds keypoints or rotated boxes, or classifies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.client.events import stream_event
from serve_app.client.sse import Message
from serve_app.detections import Detections, Mask, Ranking
from serve_app.schemas.streams import LabelChange
from tests.support.local_streams import FRAMES, FakeDetector, all_events, new_stream

pytestmark = pytest.mark.anyio


def segmented(found: Detections) -> Detections:
    left, top, right, bottom = found.xyxy[0].tolist()
    return replace(found, masks=(Mask(np.ones((4, 4), np.bool_), (left, top, right, bottom)),))


def posed(found: Detections) -> Detections:
    return replace(found, keypoints=np.full((1, 17, 3), 0.75, np.float32))


def rotated(found: Detections) -> Detections:
    left, top, right, bottom = found.xyxy[0].tolist()
    return replace(found, rotated=np.array([[(left + right) / 2, (top + bottom) / 2, 32, 32, 0]], np.float32))


def classified(label: str) -> Detections:
    ranking = Ranking(np.array([0], np.int32), np.array([0.8], np.float32), (label,))
    return replace(Detections.empty(), classes=ranking)


@pytest.mark.parametrize(
    ("task", "field"), [(segmented, "segments"), (posed, "keypoints"), (rotated, "obb")], ids=["segment", "pose", "obb"]
)
async def test_results_have_the_fields_of_the_task_and_track_ids(
    video: Path, task: Callable[[Detections], Detections], field: str
) -> None:
    detector = FakeDetector()
    detector.as_task = task
    stream = new_stream(video, detector, track=True)
    await stream.run()
    results = [event["detections"][0] for event in await all_events(stream) if event["type"] == "result"]
    assert len(results) == FRAMES
    assert all(field in found for found in results)
    assert results[-1]["track_id"] == 1
    snapshot = await stream.snapshot(None, 0, boxes=True)
    assert snapshot is not None
    plain = await stream.snapshot(None, 0, boxes=False)
    assert plain is not None
    assert snapshot.jpeg != plain.jpeg


async def test_a_stream_may_ask_for_the_rle_of_masks(video: Path) -> None:
    detector = FakeDetector()
    detector.as_task = segmented
    stream = new_stream(video, detector, detect={"mask": "rle"})
    await stream.run()
    (*_, last) = [event for event in await all_events(stream) if event["type"] == "result"]
    assert last["detections"][0]["mask"]["size"] == [320, 320]
    assert "segments" not in last["detections"][0]


async def test_an_event_says_that_another_class_has_become_the_most_probable(video: Path) -> None:
    detector = FakeDetector()
    detector.as_task = lambda _: classified("open" if detector.seen[-1] < 10 else "shut")
    stream = new_stream(video, detector, label_after_s=0)
    await stream.run()
    events = await all_events(stream)
    changes = [event for event in events if event["type"] == "label"]
    assert [(each["frame_id"], each["previous"], each["label"]) for each in changes] == [
        (0, None, "open"),
        (10, "open", "shut"),
    ]
    assert changes[1]["confidence"] == 0.8
    assert stream.status().label == "shut"
    assert new_stream(video, FakeDetector()).status().label == "shut"  # in the next process, from the bookmark
    result = next(event for event in events if event["type"] == "result")
    assert (result["count"], result["detections"], result["classes"][0]["label"]) == (0, [], "open")
    parsed = stream_event(Message("1", "label", json.dumps(changes[1])))
    assert isinstance(parsed.data, LabelChange)


async def test_the_status_of_a_stream_that_does_not_classify_has_no_label(video: Path) -> None:
    stream = new_stream(video, FakeDetector())
    await stream.run()
    assert "label" not in json.loads(stream.status().model_dump_json())
