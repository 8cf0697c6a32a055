"""Tests of the JSON of results: what each task adds, and that other results lack it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from serve_app.detections import Detections
from serve_app.images.outlines import with_outlines
from serve_app.schemas.detect import DetectResponse
from serve_app.types import MaskFormat
from tests.support import tasks

ADDED = {"segments", "mask", "keypoints", "obb", "angle"}


def response(found: Detections, mask: MaskFormat = "polygon", names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the JSON of the answer with these detections."""
    found = with_outlines(found, tasks.WIDTH_PX, tasks.HEIGHT_PX, mask)
    text = DetectResponse.from_answer(tasks.answer(found, names), "7").model_dump_json()
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_a_result_with_boxes_alone_has_no_field_of_another_task() -> None:
    text = DetectResponse.from_answer(tasks.answer(tasks.boxed()), "7").model_dump_json()
    assert text == (
        '{"count":2,"detections":['
        '{"label":"cat","class_id":0,"confidence":0.9,"bbox":{"x1":20.0,"y1":10.0,"x2":80.0,"y2":70.0}},'
        '{"label":"dog","class_id":1,"confidence":0.6,"bbox":{"x1":100.0,"y1":20.0,"x2":140.0,"y2":100.0}}],'
        '"image":{"width":200,"height":100},"input":{"width":64,"height":64},"model":"fake",'
        '"timing_ms":{"decode":0.0,"queue":0.0,"inference":0.0,"postprocess":0.0,"total":0.0},'
        '"batch_size":1,"request_id":"7"}'
    )


@pytest.mark.parametrize(
    ("found", "added"),
    [
        (tasks.boxed(), set()),
        (tasks.segmented(), {"segments"}),
        (tasks.posed(), {"keypoints"}),
        (tasks.rotated(), {"obb", "angle"}),
    ],
    ids=["detect", "segment", "pose", "obb"],
)
def test_a_task_adds_its_fields_and_changes_no_other(found: Detections, added: set[str]) -> None:
    plain, more = response(tasks.boxed()), response(found)
    assert more.keys() == plain.keys()
    for one, other in zip(plain["detections"], more["detections"], strict=True):
        assert other.keys() - one.keys() == added
        assert {name: other[name] for name in one} == one


def test_segments_are_outer_outlines_in_pixels_of_the_image() -> None:
    cat, dog = response(tasks.segmented())["detections"]
    assert sorted(cat["segments"][0]) == [[20, 10], [20, 70], [80, 10], [80, 70]]
    assert sorted(dog["segments"][0]) == [[100, 20], [100, 100], [120, 20], [120, 100]]


def test_an_rle_has_the_holes_and_takes_the_place_of_segments() -> None:
    cat, _ = response(tasks.segmented(), "rle")["detections"]
    assert cat.keys() & ADDED == {"mask"}
    assert coco.area(cat["mask"]) == 60 * 60 - 20 * 20
    assert cat["mask"]["size"] == [100, 200]


def test_keypoints_have_a_confidence_and_their_names_are_there_once() -> None:
    found = response(tasks.posed(3), names=("head", "body", "tail"))
    assert found["keypoint_names"] == ["head", "body", "tail"]
    assert found["detections"][1]["keypoints"] == [[100, 20, 0.75], [100, 60, 0.25], [100, 100, 0.75]]
    assert "keypoint_names" not in response(tasks.posed())
    assert "keypoint_names" not in response(tasks.boxed(), names=("head", "body", "tail"))


def test_the_corners_of_a_rotated_box_are_those_of_ultralytics() -> None:
    from ultralytics.utils.ops import xywhr2xyxyxyxy

    found = tasks.rotated()
    for one, expected in zip(response(found)["detections"], xywhr2xyxyxyxy(found.rotated), strict=True):
        assert np.allclose(list(one["obb"].values()), expected.ravel(), atol=0.006)
    assert response(found)["detections"][0]["angle"] == round(math.pi / 6, 4)
    assert found.rotated is not None
    found.rotated[0, 4] = np.nextafter(np.float32(math.pi / 2), np.float32(0))
    assert response(found)["detections"][0]["angle"] < math.pi / 2
    assert list(response(found)["detections"][1]["obb"].values()) == [140, 100, 140, 20, 100, 20, 100, 100]


def test_a_model_that_classifies_returns_classes_and_no_detections() -> None:
    found = response(tasks.classified())
    assert (found["count"], found["detections"]) == (0, [])
    assert found["classes"] == [
        {"label": "dog", "class_id": 1, "confidence": 0.8},
        {"label": "cat", "class_id": 0, "confidence": 0.15},
    ]
