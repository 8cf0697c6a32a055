"""The Open Inference Protocol, with requests as clients of Triton and KServe send them."""

from __future__ import annotations

import ast
import base64
import gzip
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.errors import Overloaded
from serve_app.types import Task
from tests.support.api import Keys, build, client_of
from tests.support.fakes import MODEL, FakeBackend
from tests.support.tensors import IMAGE, INFER, INFER_IMAGE, LENGTH, binary, error_of, pictures, tensor

pytestmark = pytest.mark.anyio


async def test_a_tensor_is_answered_with_binary_data(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    # These are the bytes that tritonclient 2.73.0 sent for Ultralytics, with a smaller image.
    text = (
        '{"inputs":[{"name":"images","shape":[1,3,32,64],"datatype":"FP32","parameters":{"binary_data_size":24576}}],'
        '"outputs":[{"name":"output0","parameters":{"binary_data":true}}]}'
    )
    response = await client.post(INFER, **binary(text, IMAGE.tobytes()))
    assert response.status_code == 200
    length = int(response.headers[LENGTH])
    assert json.loads(response.content[:length]) == {
        "model_name": "default",
        "model_version": "1",
        "outputs": [
            {"name": "output0", "datatype": "FP32", "shape": [1, 6, 32], "parameters": {"binary_data_size": 768}}
        ],
    }
    assert np.frombuffer(response.content[length:], "<f4").tolist() == [1.0] * 192
    assert (backend.shapes, backend.models_asked) == ([(3, 32, 64)], ["default"])


async def test_a_tensor_in_json_is_answered_in_json(client: httpx.AsyncClient) -> None:
    given = {"name": "images", "shape": [1, 3, 1, 2], "datatype": "FP32", "data": [0, 1, 0, 0, 0, 0]}
    response = await client.post(INFER, json={"id": "seven", "inputs": [given]})
    assert response.status_code == 200
    assert LENGTH not in response.headers
    assert response.json() == {
        "id": "seven",
        "model_name": "default",
        "model_version": "1",
        "outputs": [{"name": "output0", "datatype": "FP32", "shape": [1, 6, 1], "data": [0.0] * 6}],
    }


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_body_is_read(client: httpx.AsyncClient, coding: str) -> None:
    request = tensor()
    compress = gzip.compress if coding == "gzip" else zlib.compress
    headers = request["headers"] | {"Content-Encoding": coding}  # the length is that of the JSON before compression
    response = await client.post(INFER, content=compress(request["content"]), headers=headers)
    assert response.status_code == 200


async def test_the_images_of_a_batch_are_answered_in_order(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    values = np.linspace(0, 1, 5, dtype=np.float16)
    batch = np.broadcast_to(values[:, None, None, None], (5, 3, 8, 8)).copy()
    response = await client.post(INFER, **tensor(batch))
    output = np.frombuffer(response.content[int(response.headers[LENGTH]) :], "<f4").reshape(5, 6, 8)
    np.testing.assert_array_equal(output[:, 0, 0], values.astype(np.float32))
    assert backend.shapes == [(3, 8, 8)] * 5


async def test_tensors_of_different_lengths_are_padded(
    client: httpx.AsyncClient, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = iter([3, 8])

    async def infer(model: str, planes: NDArray[np.floating], **_: Any) -> tuple[NDArray[np.float32], str]:
        return np.ones((6, next(lengths)), np.float32), "v1"

    monkeypatch.setattr(backend, "infer", infer)
    response = await client.post(INFER, **tensor(np.repeat(IMAGE, 2, axis=0)))
    output = np.frombuffer(response.content[int(response.headers[LENGTH]) :], "<f4").reshape(2, 6, 8)
    assert output.sum(axis=(1, 2)).tolist() == [18, 48]
    assert not output[0, :, 3:].any()


async def test_a_batch_is_not_answered_by_two_versions_of_the_model(
    client: httpx.AsyncClient, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = iter(["v1", "v2"])

    async def infer(model: str, planes: NDArray[np.floating], **_: Any) -> tuple[NDArray[np.float32], str]:
        return np.ones((6, 8), np.float32), next(versions)

    monkeypatch.setattr(backend, "infer", infer)
    response = await client.post(INFER, **tensor(np.repeat(IMAGE, 2, axis=0)))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert error_of(response) == "the model was changed during the request; retry the request"


async def test_encoded_images_are_answered_as_detect_answers_them(
    client: httpx.AsyncClient, backend: FakeBackend
) -> None:
    response = await client.post(INFER_IMAGE, **pictures(b"first", b"second", confidence=0.25, classes="dog"))
    assert response.status_code == 200
    [output] = response.json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("detections", "BYTES", [2])
    first, second = map(json.loads, output["data"])
    detected = (await client.post("/detect?confidence=0.25&classes=dog", content=b"second")).json()
    assert second | {"timing_ms": None} == detected | {"timing_ms": None}
    assert first["image"]["width"] == 5
    assert [options.confidence for options in backend.options] == [0.25] * 3


async def test_detections_may_be_binary_data(client: httpx.AsyncClient) -> None:
    response = await client.post(INFER_IMAGE, **pictures(b"picture", binary_data_output=True))
    data = response.content[int(response.headers[LENGTH]) :]
    assert struct.unpack_from("<I", data) == (len(data) - 4,)
    assert json.loads(data[4:])["detections"][0]["label"] == "dog"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/default/ready", {"name": "default", "ready": True}),
        ("/v2/models/default-image/versions/1/ready", {"name": "default-image", "ready": True}),
    ],
)
async def test_the_server_and_the_model_are_ready(client: httpx.AsyncClient, path: str, answer: Any) -> None:
    response = await client.get(path)
    assert (response.status_code, response.json()) == (200, answer)
    assert (await client.head(path)).status_code == 200


async def test_the_server_describes_itself(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/v2")).json()
    assert answer["name"] == "sightline"
    assert "binary_tensor_data" in answer["extensions"]


async def test_a_model_has_metadata(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v2/models/codes/versions/1")).json() == {
        "name": "codes",
        "versions": ["1"],
        "platform": "sightline",
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 640, 640]}],
        "outputs": [{"name": "output0", "datatype": "FP32", "shape": [-1, 6, -1]}],
    }
    encoded = (await client.get("/v2/models/codes-image")).json()
    assert encoded["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]


@pytest.mark.parametrize(
    ("task", "changes", "shape"),
    [
        ("detect", {}, [6, -1]),
        ("detect", {"end_to_end": True}, [-1, 6]),
        ("pose", {"keypoints": ("a", "b"), "numbers_per_keypoint": 2}, [10, -1]),
        ("pose", {"keypoints": ("a", "b"), "end_to_end": True}, [-1, 12]),
        ("obb", {}, [7, -1]),
        ("classify", {}, [2]),
    ],
)
async def test_a_config_has_what_ultralytics_reads(
    client: httpx.AsyncClient, backend: FakeBackend, task: Task, changes: Any, shape: list[int]
) -> None:
    backend.model = replace(MODEL, engine=replace(MODEL.engine, task=task, labels=("cat", "it's"), **changes))
    config = (await client.get("/v2/models/codes/config")).json()
    assert config["input"] == [{"name": "images", "data_type": "TYPE_FP32", "dims": [3, 640, 640]}]
    assert config["output"] == [{"name": "output0", "data_type": "TYPE_FP32", "dims": shape}]
    metadata = ast.literal_eval(config["parameters"]["metadata"]["string_value"])
    assert metadata["names"] == {0: "cat", 1: "it's"}
    assert (metadata["task"], metadata["imgsz"], metadata["stride"]) == (task, [640, 640], 32)
    assert metadata["end2end"] == bool(changes.get("end_to_end"))
    assert metadata["args"] == {"batch": 1, "dynamic": False, "nms": False}
    assert metadata.get("kpt_shape") == ([2, changes.get("numbers_per_keypoint", 3)] if task == "pose" else None)


async def test_all_names_of_models_are_listed(client: httpx.AsyncClient) -> None:
    listed = (await client.post("/v2/repository/index", json={})).json()
    assert [one["name"] for one in listed] == ["codes", "codes-image", "plates", "plates-image"]
    assert {one["state"] for one in listed} == {"READY"}


@pytest.mark.parametrize("model", ["nothing", "nothing-image", "default-image-image", "-image"])
@pytest.mark.parametrize("path", ["", "/ready", "/config"])
async def test_an_unknown_model_is_not_found(client: httpx.AsyncClient, model: str, path: str) -> None:
    response = await client.get(f"/v2/models/{model}{path}")
    assert response.status_code == 404
    assert "no model is named" in error_of(response)


async def test_there_is_one_version(client: httpx.AsyncClient) -> None:
    response = await client.post("/v2/models/default/versions/2/infer", **tensor())
    assert response.status_code == 404
    assert "only the version 1" in error_of(response)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/systemsharedmemory/status",
        "/v2/cudasharedmemory/region/x/register",
        "/v2/repository/models/codes/load",
        "/v2/models/codes/stats",
        "/v2/logging",
    ],
)
async def test_what_is_not_supported_is_refused_in_the_form_of_the_protocol(
    client: httpx.AsyncClient, path: str
) -> None:
    response = await client.post(path, json={})
    assert response.status_code == 404
    assert "not supported" in error_of(response)


async def test_an_overloaded_server_refuses_before_it_reads_the_body(
    client: httpx.AsyncClient, backend: FakeBackend
) -> None:
    backend.is_full = True
    response = await client.post(INFER, content=b"anything")
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "preprocessor.slots" in error_of(response)
    backend.is_full, backend.failure = False, Overloaded("full", limit="batcher.max_queue_size")
    assert (await client.post(INFER, **tensor())).status_code == 503


async def test_a_key_may_be_a_bearer_token_or_the_password_of_basic_authentication(
    tmp_path: Path, backend: FakeBackend
) -> None:
    keys = Keys(tmp_path / "keys.yaml")
    bearer = keys.add("triton", "detect")
    key = bearer["Authorization"].removeprefix("Bearer ")
    basic = {"authorization": "Basic " + base64.b64encode(f"anyone:{key}".encode()).decode()}
    async with client_of(build(backend, keys)) as client:
        for header in (bearer, basic):
            assert (await client.post(INFER, **merged(tensor(), header))).status_code == 200
        for header in (
            {},
            {"Authorization": "Bearer no"},
            {"Authorization": "Basic YTpi"},
            {"Authorization": "Basic ="},
        ):
            response = await client.post(INFER, **merged(tensor(), header))
            assert response.status_code == 401
            error_of(response)
    assert backend.tenants == ["triton", "triton"]


def merged(request: dict[str, Any], header: dict[str, str]) -> dict[str, Any]:
    return request | {"headers": request["headers"] | header}


async def test_clients_in_a_listed_network_need_no_key(tmp_path: Path, backend: FakeBackend) -> None:
    keys = Keys(tmp_path / "keys.yaml")
    compat = {"open_inference": {"allow_from": "127.0.0.0/8"}}
    async with client_of(build(backend, keys, compat=compat)) as client:
        assert (await client.post(INFER, **tensor())).status_code == 200
    compat = {"open_inference": {"allow_from": "10.0.0.0/8"}}
    async with client_of(build(backend, keys, compat=compat)) as client:
        assert (await client.post(INFER, **tensor())).status_code == 401


async def test_the_protocol_can_be_disabled(backend: FakeBackend) -> None:
    async with client_of(build(backend, compat={"open_inference": {"enabled": False}})) as client:
        assert (await client.get("/v2")).json()["code"] == "not_found"
