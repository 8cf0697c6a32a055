"""The protocol of DeepStack and CodeProject.AI, with the requests that its clients send."""

from __future__ import annotations

from dataclasses import replace

import httpx
import numpy as np
import pytest

from serve_app.detections import Detections, Ranking
from serve_app.types import Answer, InputShape, PictureRequest, Timing
from tests.support.api import Keys, build, client_of
from tests.support.fakes import FakeBackend

pytestmark = pytest.mark.anyio

DETECTION = "/v1/vision/detection"
KEYS = {"label", "confidence", "x_min", "y_min", "x_max", "y_max"}
# What Frigate's detector sends with the HTTP library requests: no min_confidence, an empty key, and a part without a
# Content-Type.
BOUNDARY = "3f1d9b7b0a1c4e2f8d5e6a7b8c9d0e1f"
FRIGATE_HEADERS = {
    "User-Agent": "python-requests/2.32.3",
    "Accept-Encoding": "gzip, deflate",
    "Accept": "*/*",
    "Connection": "keep-alive",
    "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
}


def frigate_body(picture: bytes, key: str = "") -> bytes:
    lines = [
        *(f"--{BOUNDARY}", 'Content-Disposition: form-data; name="api_key"', "", key),
        *(f"--{BOUNDARY}", 'Content-Disposition: form-data; name="image"; filename="image"', "", ""),
    ]
    return "\r\n".join(lines).encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()


class Crowd(FakeBackend):
    """A backend that finds ``max_detections`` cats, the least confident first, and that records the requests."""

    asked: PictureRequest

    async def detect(self, request: PictureRequest) -> Answer:
        self.asked = request
        count = request.params.max_detections or 300
        boxes = np.tile(np.array([[-0.4, 1.6, 30.49, 99.0]], np.float32), (count, 1))
        confidence = np.linspace(0.4, 0.9, count, dtype=np.float32)
        found = Detections(boxes, confidence, np.zeros(count, np.int32), ("cat",) * count)
        return Answer(found, 320, 50, "codes", 1, Timing(total_s=0.01), InputShape.square(320))


async def test_frigates_request_gets_at_most_20_objects_sorted_by_confidence() -> None:
    """Frigate's detector crashes if an answer has more than 20 objects, and stops at the first confidence below 0.4."""
    crowd = Crowd()
    async with client_of(build(crowd)) as client:
        answer = await client.post(DETECTION, content=frigate_body(b"\xff\xd8picture"), headers=FRIGATE_HEADERS)
    found = answer.json()
    assert (answer.status_code, found["success"], len(found["predictions"])) == (200, True, 20)
    assert crowd.asked.data == b"\xff\xd8picture"
    assert crowd.asked.params.confidence == 0.4
    confidences = [one["confidence"] for one in found["predictions"]]
    assert confidences == sorted(confidences, reverse=True)
    assert all(one.keys() == KEYS for one in found["predictions"])
    assert found["predictions"][0] | {"confidence": 0} == {
        "label": "cat",
        "confidence": 0,
        "x_min": 0,
        "y_min": 2,
        "x_max": 30,
        "y_max": 50,
    }
    assert all(type(found["predictions"][0][name]) is int for name in ("x_min", "y_min", "x_max", "y_max"))


async def test_the_query_of_frigates_url_may_have_settings() -> None:
    crowd = Crowd()
    async with client_of(build(crowd)) as client:
        url = f"{DETECTION}?classes=cat,dog&max_detections=7"
        answer = await client.post(url, content=frigate_body(b"1"), headers=FRIGATE_HEADERS)
    assert len(answer.json()["predictions"]) == 7
    assert crowd.asked.params.classes == ("cat,dog",)


@pytest.mark.parametrize("count", ["2.9", "0", "3001", "many"])
async def test_max_detections_must_be_a_whole_number(client: httpx.AsyncClient, count: str) -> None:
    refused = await client.post(f"{DETECTION}?max_detections={count}", files={"image": b"1"})
    assert (refused.status_code, refused.json()["success"]) == (400, False)
    assert refused.json()["error"] == "max_detections: send a whole number from 1 to 3000"


async def test_a_client_that_sends_a_confidence_gets_as_many_objects_as_the_model_finds() -> None:
    crowd = Crowd()
    async with client_of(build(crowd)) as client:
        for sent, used in (("0.45", 0.45), ("0", 0.01), ("1", 1.0)):
            answer = await client.post(DETECTION, data={"min_confidence": sent}, files={"image": b"1"})
            assert len(answer.json()["predictions"]) == 300
            assert crowd.asked.params.confidence == used


async def test_the_answer_has_what_the_clients_read(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    answer = (await client.post(DETECTION, files={"image": b"12345"})).json()
    box = {"label": "dog", "confidence": 0.75, "x_min": 0, "y_min": 0, "x_max": 5, "y_max": 10}
    assert answer["predictions"] == [box]
    assert (answer["count"], answer["message"], answer["command"]) == (1, "Found dog", "detect")
    assert (answer["code"], answer["inferenceMs"]) == (200, 3)


async def test_blue_iris_lists_the_models_and_names_one_of_them(
    client: httpx.AsyncClient, backend: FakeBackend
) -> None:
    for method in ("GET", "POST"):
        listed = await client.request(method, "/v1/vision/custom/list")
        assert listed.json() == {"success": True, "models": ["codes", "plates"]}
    for name in ("codes", "Plates.onnx"):
        assert (await client.post(f"/v1/vision/custom/{name}", files={"image": b"1"})).json()["success"]
    assert backend.models_asked == ["default", "plates"]
    unknown = await client.post("/v1/vision/custom/nope", files={"image": b"1"})
    assert (unknown.status_code, unknown.json()["success"]) == (404, False)
    assert "use one of codes, plates" in unknown.json()["error"]


async def test_the_state_routes_need_no_key(keyed: httpx.AsyncClient) -> None:
    for path in ("/v1/status/ping", "/v1/server/status/ping"):
        assert (await keyed.get(path)).json() == {"success": True}
    update = (await keyed.get("/v1/status/updateavailable")).json()
    assert (update["success"], update["updateAvailable"], update["current"]) == (True, False, update["latest"])
    assert {"major", "minor", "patch"} <= update["current"].keys()


@pytest.mark.parametrize(
    ("fields", "files", "text"),
    [
        ({}, {"image": b"bad"}, "truncated"),
        ({}, {"picture": b"1"}, "'image'"),
        ({}, [("image", b"1"), ("image", b"2")], "one image"),
        ({"min_confidence": "high"}, {"image": b"1"}, "min_confidence: send a number from 0 to 1"),
        ({"min_confidence": "nan"}, {"image": b"1"}, "min_confidence"),
        ({"min_confidence": "1.1"}, {"image": b"1"}, "min_confidence"),
        ({"note": "x" * 9000}, {"image": b"1"}, "note: the field is longer than 8 KiB"),
    ],
)
async def test_a_bad_request_gets_400_in_deepstacks_form(
    client: httpx.AsyncClient, fields: dict[str, str], files: dict[str, bytes], text: str
) -> None:
    refused = await client.post(DETECTION, data=fields, files=files)
    assert (refused.status_code, refused.json()["success"]) == (400, False)
    assert text in refused.json()["error"]


async def test_a_model_that_classifies_is_refused_because_it_finds_no_objects(
    client: httpx.AsyncClient, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = Ranking(np.array([1], np.int32), np.array([0.9], np.float32), ("dog",))
    classified = replace(Detections.empty(), classes=ranking)

    async def detect(request: PictureRequest) -> Answer:
        return Answer(classified, 5, 10, "shapes", 1, Timing(), InputShape.square(320))

    monkeypatch.setattr(backend, "detect", detect)
    for path in (DETECTION, "/v1/vision/custom/plates"):
        refused = await client.post(path, files={"image": b"1"})
        assert (refused.status_code, refused.json()["success"]) == (400, False)
        assert (
            "shapes classifies whole images and finds no objects; name a model that detects" in refused.json()["error"]
        )


async def test_other_bodies_are_refused_in_deepstacks_form(client: httpx.AsyncClient) -> None:
    for content, kind in ((b"", "text/plain"), (b"1", "image/jpeg"), (b"--x--", "multipart/form-data; boundary=x")):
        refused = await client.post(DETECTION, content=content, headers={"Content-Type": kind})
        assert (refused.status_code, refused.json()["success"]) == (400, False)
    wrong_method = await client.get(DETECTION)
    assert (wrong_method.status_code, wrong_method.json()["success"]) == (405, False)


async def test_the_key_is_a_form_field(keyed: httpx.AsyncClient, keys: Keys, backend: FakeBackend) -> None:
    key = keys.add("dock", "detect")["Authorization"].removeprefix("Bearer ")
    streams_only = keys.add("yard", "streams")["Authorization"].removeprefix("Bearer ")
    for sent, status_code in ((key, 200), ("", 401), ("wrong", 401), (streams_only, 403)):
        answer = await keyed.post(DETECTION, content=frigate_body(b"1", sent), headers=FRIGATE_HEADERS)
        assert answer.status_code == status_code
        assert answer.json()["success"] == (status_code == 200)
    assert backend.tenants == ["dock"]


async def test_an_overloaded_server_refuses_before_it_reads_the_body(
    client: httpx.AsyncClient, backend: FakeBackend
) -> None:
    backend.is_full = True
    refused = await client.post(DETECTION, content=frigate_body(b"1"), headers=FRIGATE_HEADERS)
    assert (refused.status_code, refused.json()["success"], refused.headers["retry-after"]) == (503, False, "1")
    assert backend.pictures == []


async def test_a_disabled_protocol_has_no_routes() -> None:
    async with client_of(build(compat={"deepstack": {"enabled": False}})) as client:
        assert (await client.post(DETECTION, files={"image": b"1"})).json()["code"] == "not_found"
        assert (await client.get("/info")).status_code == 200
