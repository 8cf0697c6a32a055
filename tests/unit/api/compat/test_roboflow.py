"""The protocol of Roboflow's inference server, with the requests that inference-sdk sends."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from serve_app.api.compat.roboflow import _result
from serve_app.detections import Detections, Ranking
from serve_app.types import Answer, InputShape, Json, Timing
from tests.support.api import Keys, build, client_of
from tests.support.fakes import FakeBackend

pytestmark = pytest.mark.anyio

INFER = "/infer/object_detection"


def image_of(data: bytes) -> Json:
    return {"type": "base64", "value": base64.b64encode(data).decode()}


def body_of(image: Any = None, **fields: Any) -> Json:
    """Return the JSON that inference-sdk 1.8.3 sends for one image."""
    return {
        "api_key": None,
        "model_id": "codes",
        "image": image or image_of(b"12345"),
        "visualize_predictions": False,
        "disable_active_learning": False,
        **fields,
    }


async def test_an_image_is_answered_with_boxes_given_by_their_centre(client: httpx.AsyncClient) -> None:
    answer = (await client.post(f"{INFER}?service_secret=x", json=body_of())).json()
    assert answer["image"] == {"width": 5, "height": 10}
    [found] = answer["predictions"]
    del found["detection_id"]
    box = {"x": 2.5, "y": 5.0, "width": 5.0, "height": 10.0}
    assert found == {**box, "confidence": 0.75, "class": "dog", "class_id": 1}


async def test_several_images_are_answered_in_their_order(client: httpx.AsyncClient) -> None:
    answers = (await client.post(INFER, json=body_of([image_of(b"1"), image_of(b"123")]))).json()
    assert [answer["image"]["width"] for answer in answers] == [1, 3]
    assert len((await client.post(INFER, json=body_of([image_of(b"1")]))).json()) == 1


async def test_the_settings_of_a_request_are_used(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    wanted = {"confidence": 0.5, "iou_threshold": 0.6, "max_detections": 7, "class_filter": ["dog"]}
    await client.post(INFER, json=body_of(**wanted, class_agnostic_nms=True))
    await client.post(INFER, json=body_of(confidence="best"))
    first, second = backend.options
    assert (first.confidence, first.iou, first.max_detections, first.class_ids) == (0.5, 0.6, 7, (1,))
    assert first.agnostic_nms
    assert (second.confidence, second.iou, second.class_ids) == (0.4, 0.3, None)


async def test_a_visualization_is_a_jpeg_in_base64(client: httpx.AsyncClient) -> None:
    answer = (await client.post(INFER, json=body_of(visualize_predictions=True))).json()
    assert base64.b64decode(answer["visualization"]).startswith(b"\xff\xd8")


async def test_the_registry_names_the_models(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/model/registry?api_key=None")).json()["models"]
    assert [(one["model_id"], one["task_type"]) for one in listed] == [
        ("codes", "object-detection"),
        ("plates", "object-detection"),
    ]
    added = (await client.post("/model/add", json={"model_id": "Codes.onnx", "api_key": None})).json()["models"]
    assert [one["model_id"] for one in added] == ["codes", "plates", "Codes.onnx"]
    for path in ("/model/remove", "/model/clear"):
        assert (await client.post(path, json={"model_id": "codes"})).json()["models"] == listed
    assert (await client.post("/model/clear")).json()["models"] == listed
    info = (await client.get("/info")).json()
    assert info.keys() == {"name", "version", "uuid"}


@pytest.mark.parametrize(
    ("path", "body", "status_code"),
    [
        (INFER, body_of(image_of(b"bad")), 422),
        (INFER, body_of(model_id="nope"), 404),
        ("/model/add", {"model_id": "nope"}, 404),
        ("/infer/embeddings", body_of(), 404),
        ("/infer/classification", body_of(), 422),
        (INFER, body_of({"type": "numpy", "value": "gASV"}), 422),
        (INFER, body_of({"type": "base64", "value": "#"}), 400),
        (INFER, body_of({"type": "url", "value": "https://site.example/a.jpg"}), 403),
        (INFER, body_of(confidence=2.0), 422),
        (INFER, {"model_id": "codes"}, 422),
        (INFER, [], 422),
        (INFER, body_of([image_of(b"1")] * 33), 413),
    ],
)
async def test_a_bad_request_gets_a_message(client: httpx.AsyncClient, path: str, body: Any, status_code: int) -> None:
    refused = await client.post(path, json=body)
    assert refused.status_code == status_code
    assert refused.json()["message"] == refused.json()["detail"] != ""


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (body_of(1), "image: send an object with the type base64 or url, and the value, or a list of up to 256"),
        (body_of({"type": "numpy", "value": "gASV"}), "image: send an object"),
        (body_of([image_of(b"1"), {"type": "base64"}]), "image: send an object"),
        (body_of([image_of(b"1")] * 257), "image: send an object"),
        (body_of(confidence="x"), "confidence: Input should be a valid number"),
        (body_of(max_detections=2.9), "max_detections: Input should be a valid integer"),
        ([], "the body: Input should be an object"),
    ],
)
async def test_an_error_begins_with_the_name_of_the_field(client: httpx.AsyncClient, body: Any, text: str) -> None:
    assert (await client.post(INFER, json=body)).json()["message"].startswith(text)


async def test_the_limit_applies_to_the_decoded_images() -> None:
    async with client_of(build(limits={"max_body_mib": 1})) as client:
        half = image_of(bytes(2**19))
        for images, status_code in (
            ([half, half], 200),
            ([half, image_of(bytes(2**19 + 1))], 413),
            (image_of(bytes(2**20 + 3)), 413),
        ):
            assert (await client.post(INFER, json=body_of(images))).status_code == status_code


async def test_the_key_is_in_the_query_or_in_the_json(keyed: httpx.AsyncClient, keys: Keys) -> None:
    key = keys.add("dock", "detect")["Authorization"].removeprefix("Bearer ")
    assert (await keyed.get("/model/registry", params={"api_key": key})).status_code == 200
    assert (await keyed.post(INFER, json=body_of(api_key=key))).status_code == 200
    for wrong in ("None", "wrong"):
        refused = await keyed.get("/model/registry", params={"api_key": wrong})
        assert (refused.status_code, "message" in refused.json()) == (401, True)
        assert (await keyed.post(INFER, json=body_of(api_key=wrong))).status_code == 401


async def test_an_overloaded_server_refuses(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    backend.is_full = True
    refused = await client.post(INFER, json=body_of())
    assert (refused.status_code, refused.json()["limit"]) == (503, "preprocessor.slots")


def test_the_other_tasks_have_their_forms() -> None:
    box, half = np.array([[0, 0, 10, 20]], np.float32), np.array([0.5], np.float32)
    found = Detections(box, half, np.zeros(1, np.int32), ("cat",))
    answer = Answer(found, 100, 50, "codes", 1, Timing(), InputShape.square(640))
    small, large = [[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    segmented = replace(answer, detections=replace(found, outlines=([large, small],)))
    [one] = _result(segmented, "instance_segmentation", 0.1, "id")["predictions"]
    assert one["points"] == [{"x": 1.0, "y": 2.0}, {"x": 3.0, "y": 4.0}, {"x": 5.0, "y": 6.0}]
    posed = replace(
        answer, detections=replace(found, keypoints=np.array([[[1, 2, 0.5]]], np.float32)), keypoint_names=("nose",)
    )
    [one] = _result(posed, "keypoints_detection", 0.1, "id")["predictions"]
    assert one["keypoints"] == [{"x": 1.0, "y": 2.0, "confidence": 0.5, "class_id": 0, "class": "nose"}]
    ranking = Ranking(np.array([1], np.int32), half, ("dog",))
    classified = replace(answer, detections=replace(Detections.empty(), classes=ranking))
    result = _result(classified, "classification", 0.1, "id")
    assert (result["top"], result["confidence"]) == ("dog", 0.5)
    assert result["predictions"] == [{"class": "dog", "class_id": 1, "confidence": 0.5}]
