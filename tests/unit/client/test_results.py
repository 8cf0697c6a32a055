"""Test the client's result objects, which contain the server's JSON fields and convert them to arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np

from serve_app.client import DetectResult, FrameResult
from serve_app.schemas.streams import TrackedDetection

FIELDS: dict[str, Any] = {
    "count": 2,
    "detections": [
        {"label": "cat", "class_id": 0, "confidence": 0.9, "bbox": {"x1": 1.5, "y1": 2, "x2": 3, "y2": 4}},
        {"label": "traffic light", "class_id": 9, "confidence": 0.6, "bbox": {"x1": 5, "y1": 6, "x2": 7, "y2": 8}},
    ],
    "image": {"width": 64, "height": 48},
    "input": {"width": 640, "height": 480},
    "model": "fake",
    "timing_ms": {"decode": 1, "queue": 2, "inference": 3, "postprocess": 4, "total": 10},
    "batch_size": 1,
}
RESULT = DetectResult.model_validate(FIELDS | {"request_id": "7"})
EMPTY = DetectResult.model_validate(FIELDS | {"request_id": "7", "count": 0, "detections": []})
FRAME = FIELDS | {"stream_id": "lot", "frame_id": 7, "captured_at_s": 1.0, "age_s": 0.1}


def tracked(*track_ids: int | None) -> FrameResult:
    detections = [one | {"track_id": id_} for one, id_ in zip(FIELDS["detections"], track_ids, strict=True)]
    return FrameResult.model_validate(FRAME | {"detections": detections})


def test_arrays_have_equal_lengths_and_the_types_of_detections() -> None:
    assert RESULT.xyxy.tolist() == [[1.5, 2, 3, 4], [5, 6, 7, 8]]
    assert RESULT.confidence.tolist() == [np.float32(0.9), np.float32(0.6)]
    assert RESULT.class_id.tolist() == [0, 9]
    assert RESULT.labels == ["cat", "traffic light"]
    dtypes = [array.dtype for array in (RESULT.xyxy, RESULT.confidence, RESULT.class_id)]
    assert dtypes == ["float32", "float32", "int32"]


def test_an_empty_result_has_empty_arrays() -> None:
    assert (EMPTY.xyxy.shape, EMPTY.confidence.shape, EMPTY.class_id.shape, EMPTY.labels) == ((0, 4), (0,), (0,), [])
    assert len(EMPTY.to_supervision()) == 0


def test_a_result_has_a_length_and_iterates_over_its_detections() -> None:
    assert (len(RESULT), len(EMPTY), bool(EMPTY)) == (2, 0, False)
    assert [found.label for found in RESULT] == RESULT.labels


def test_a_result_keeps_the_servers_json() -> None:
    assert RESULT.model_dump() == FIELDS | {"request_id": "7"}
    assert RESULT.timing_ms.total == 10


def test_a_result_converts_to_supervision_with_its_labels() -> None:
    detections = RESULT.to_supervision()
    assert (detections.xyxy == RESULT.xyxy).all()
    assert detections.data["class_name"].tolist() == RESULT.labels
    assert detections.tracker_id is None
    assert detections[detections.confidence > 0.7].data["class_name"].tolist() == ["cat"]


def test_a_frame_result_has_track_ids() -> None:
    frame = tracked(4, None)
    assert frame.track_id.tolist() == [4, -1]
    assert frame.to_supervision().tracker_id.tolist() == [4, -1]
    assert tracked(None, None).to_supervision().tracker_id is None
    as_tracked = cast("Iterable[TrackedDetection]", frame)
    assert [found.track_id for found in as_tracked] == [4, None]
