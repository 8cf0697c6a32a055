"""Tests of the values that ``Telemetry`` records, with a fake instrument."""

from __future__ import annotations

import numpy as np

from serve_app.detections import Detections
from serve_app.errors import NotFound, Overloaded
from serve_app.schemas.scene import SceneHealth
from serve_app.schemas.streams import State, StreamStatus
from serve_app.telemetry.metrics import REFUSALS, Telemetry
from serve_app.types import DetectReply, Timing
from tests.support.instruments import FakeInstrument, Record


def recording() -> tuple[Telemetry, list[Record]]:
    records: list[Record] = []
    return Telemetry(lambda metric: FakeInstrument(metric, records)), records


def status(state: State) -> StreamStatus:
    return StreamStatus(
        stream_id="lot", state=state, source="camera", policy="wait", captured=9, processed=7, dropped={"restart": 2}
    )


def test_a_stream_leaves_its_previous_state() -> None:
    telemetry, records = recording()
    telemetry.stream(status("running"), None)
    telemetry.stream(status("stalled"), status("running"))
    states = [(value, tags["state"]) for name, value, tags in records if name == "stream_state"]
    assert states == [(1, "running"), (0, "running"), (1, "stalled")]
    frames = {tags["outcome"]: value for name, value, tags in records if name == "stream_frames"}
    assert frames == {"captured": 9, "processed": 7, "restart": 2}


def test_refusals_are_counted_by_code_and_limit() -> None:
    telemetry, records = recording()
    telemetry.refused(Overloaded("followers: 64 connections already follow streams", limit="followers"))
    telemetry.refused(NotFound("no such route"))
    assert records == [
        ("refusals", 1, {"code": "overloaded", "limit": "followers"}),
        ("refusals", 1, {"code": "not_found", "limit": ""}),
    ]
    assert set(REFUSALS.tags) == {"code", "limit"}


def test_requests_are_counted_by_key_and_failed_reloads_of_the_key_file_are_counted() -> None:
    telemetry, records = recording()
    telemetry.requested("dock", "admitted")
    telemetry.keys_reload_failed()
    assert records == [("requests", 1, {"key": "dock", "outcome": "admitted"}), ("keys_file_errors", 1, {})]


def test_an_answer_is_counted_once_and_each_of_its_labels_too() -> None:
    telemetry, records = recording()
    found = Detections(np.zeros((3, 4), np.float32), np.ones(3, np.float32), np.array([1, 0, 1], np.int32))
    telemetry.answered(DetectReply(found, Timing(queue_s=0.002, inference_s=0.03), 1), ("cat", "dog"), "stream")
    assert records[0] == ("images", 1, {"traffic": "stream"})
    assert sorted((value, tags["label"]) for name, value, tags in records if name == "detections") == [
        (1, "cat"),
        (2, "dog"),
    ]


def test_kept_and_dropped_images_are_counted_once() -> None:
    telemetry, records = recording()
    for kept in (1, 3):
        telemetry.collected({"uncertain": kept, "drifted": 0}, {"rate_limit": 2})
    assert records == [
        ("collected_images", 1, {"reason": "uncertain"}),
        ("collect_drops", 2, {"reason": "rate_limit"}),
        ("collected_images", 2, {"reason": "uncertain"}),
    ]


def test_a_streams_scene_leaves_its_previous_state() -> None:
    telemetry, records = recording()
    ok, covered = (
        status("running").model_copy(update={"scene_health": SceneHealth(state=state, since_at_s=1)})
        for state in ("ok", "covered")
    )
    telemetry.stream(ok, None)
    telemetry.stream(covered, ok)
    telemetry.stream(status("paused"), covered)
    states = [(value, tags["state"]) for name, value, tags in records if name == "stream_scene_health"]
    assert states == [(1, "ok"), (0, "ok"), (1, "covered"), (0, "covered")]
