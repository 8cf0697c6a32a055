"""Test the client's result objects, which contain the server's JSON fields and convert them to arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import pytest

from serve_app.client import DetectResult, FrameResult
from serve_app.detections import Detections
from serve_app.images.outlines import with_outlines
from serve_app.schemas.detect import DetectResponse
from serve_app.schemas.streams import TrackedDetection
from serve_app.types import MaskFormat
from tests.support import tasks

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


def received(found: Detections, mask: MaskFormat = "polygon") -> DetectResult:
    """Return what the client makes of the server's JSON for these detections."""
    described = with_outlines(found, tasks.WIDTH_PX, tasks.HEIGHT_PX, mask)
    return DetectResult.model_validate_json(DetectResponse.from_answer(tasks.answer(described), "7").model_dump_json())


def test_a_result_with_boxes_alone_has_no_arrays_of_other_tasks() -> None:
    assert (RESULT.masks, RESULT.segments, RESULT.keypoints, RESULT.obb, RESULT.classes) == (None,) * 5
    assert RESULT.to_supervision().mask is None
    assert len(RESULT.to_supervision_keypoints()) == 0


def test_masks_are_arrays_of_the_image() -> None:
    outlined, encoded = received(tasks.segmented()), received(tasks.segmented(), "rle")
    assert outlined.masks is not None
    assert encoded.masks is not None
    assert outlined.masks.shape == encoded.masks.shape == (2, tasks.HEIGHT_PX, tasks.WIDTH_PX)
    assert [int(mask.sum()) for mask in outlined.masks] == [60 * 60, 20 * 80]
    assert [int(mask.sum()) for mask in encoded.masks] == [60 * 60 - 20 * 20, 20 * 80]
    assert outlined.segments is not None
    assert [ring.shape for rings in outlined.segments for ring in rings] == [(4, 2), (4, 2)]
    assert encoded.segments is None
    assert (encoded.to_supervision().mask == encoded.masks).all()


def test_outlines_that_extend_beyond_the_image_are_cut_off() -> None:
    segments = [[[-10, -10], [5, -10], [5, 5], [-10, 5]]]
    beyond = FIELDS | {"request_id": "7", "detections": [FIELDS["detections"][0] | {"segments": segments}]}
    masks = DetectResult.model_validate(beyond).masks
    assert masks is not None
    assert masks[0].nonzero() == (pytest.approx(np.repeat(np.arange(5), 5)), pytest.approx(np.tile(np.arange(5), 5)))


def test_keypoints_are_an_array_and_convert_to_supervision() -> None:
    result = received(tasks.posed(3))
    assert result.keypoints is not None
    assert result.keypoints.shape == (2, 3, 3)
    assert result.keypoints[1].tolist() == [[100, 20, 0.75], [100, 60, 0.25], [100, 100, 0.75]]
    points = result.to_supervision_keypoints()
    assert points.xy.tolist() == result.keypoints[..., :2].tolist()
    assert points.data["class_name"].tolist() == ["cat", "dog"]


def test_rotated_boxes_are_corners_and_convert_to_supervision() -> None:
    result = received(tasks.rotated())
    assert result.obb is not None
    assert result.obb[1].tolist() == [[140, 100], [140, 20], [100, 20], [100, 100]]
    assert (result.to_supervision().data["xyxyxyxy"] == result.obb).all()
    assert result.detections[1].angle == 0


def test_the_classes_of_an_image_are_fields() -> None:
    result = received(tasks.classified())
    assert result.classes is not None
    assert (len(result), result.classes[0].label, result.classes[0].confidence) == (0, "dog", 0.8)
