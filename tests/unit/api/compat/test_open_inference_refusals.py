"""Requests of the Open Inference Protocol that are refused."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import numpy as np
import pytest

from serve_app.errors import InvalidParameter
from tests.support.api import build, client_of
from tests.support.fakes import FakeBackend
from tests.support.tensors import IMAGE, INFER, INFER_IMAGE, LENGTH, binary, error_of, pictures, tensor

pytestmark = pytest.mark.anyio


def of(**changes: Any) -> dict[str, Any]:
    """Return the arguments of a request whose only input is changed."""
    return tensor(**changes)


@pytest.mark.parametrize(
    ("request_args", "status_code", "text"),
    [
        (of(shape=[1, 3, -32, -64]), 422, "shape"),
        (of(shape=[0, 3, 32, 64]), 422, "shape"),
        (of(shape=[1, 4, 32, 48]), 422, "shape"),
        (of(shape=[3, 32, 64]), 422, "shape"),
        (of(shape=[2**62, 3, 2**62, 4]), 400, "bytes"),
        (of(shape=[1, 3, 32, 65]), 400, "bytes"),
        (of(shape="1"), 400, "inputs.0.shape"),
        (of(datatype="FP16"), 400, "bytes"),
        (of(datatype="INT32"), 422, "FP32 or FP16"),
        (of(datatype="BYTES"), 422, "FP32 or FP16"),
        (tensor(IMAGE.astype(np.float64)), 422, "FP32 or FP16"),
        (tensor(IMAGE.astype(np.uint8)), 422, "FP32 or FP16"),
        (of(name="other"), 422, "'images'"),
        (of(parameters={"binary_data_size": 24577}), 400, "truncated"),
        (of(parameters={"binary_data_size": 24575}), 400, "belong to no input"),
        (of(parameters={"binary_data_size": -1}), 400, "truncated"),
        (of(parameters={"binary_data_size": 2**70}), 400, "truncated"),
        (of(parameters={"binary_data_size": True}), 400, "truncated"),
        (of(parameters={"binary_data_size": "9"}), 400, "truncated"),
        (of(parameters={}), 400, "belong to no input"),
        ({"json": {"inputs": [{"name": "images", "shape": [1, 3, 1, 1], "datatype": "FP32"}]}}, 400, "3 numbers"),
        ({"content": b"{"}, 400, "not valid"),
        ({"content": b"[" * 5000}, 400, "not valid"),
        ({"content": b'{"inputs": []}'}, 400, "inputs"),
        ({"content": b'{"inputs": [{}]}'}, 400, "inputs.0.name"),
        ({"content": b""}, 400, "not valid"),
        ({"content": b"\xff\xd8\xff"}, 400, "not valid"),
    ],
)
async def test_a_bad_request_is_refused(
    client: httpx.AsyncClient, backend: FakeBackend, request_args: dict[str, Any], status_code: int, text: str
) -> None:
    response = await client.post(INFER, **request_args)
    assert response.status_code == status_code
    assert text in error_of(response)
    assert not backend.shapes


@pytest.mark.parametrize("data", [[[1, 2]], [1, [2], 3], ["x", 1, 2], [{}, 1, 2], [None, 1, 2, 3], [10**400, 1, 2]])
async def test_bad_numbers_in_json_are_refused(client: httpx.AsyncClient, data: list[Any]) -> None:
    given = {"name": "images", "shape": [1, 3, 1, 1], "datatype": "FP32", "data": data}
    response = await client.post(INFER, json={"inputs": [given]})
    assert response.status_code == 400
    assert "numbers" in error_of(response)


@pytest.mark.parametrize("length", ["-1", "x", "", "9" * 30, "1e3", "99999999", "3", "0"])
async def test_a_wrong_length_of_the_json_is_refused(client: httpx.AsyncClient, length: str) -> None:
    response = await client.post(INFER, content=tensor()["content"], headers={LENGTH: length})
    assert response.status_code == 400
    error_of(response)


async def test_json_without_end_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(INFER, content=b'{"inputs": [' + b"0," * 2**20)
    assert response.status_code == 413
    assert "binary data" in error_of(response)


async def test_a_body_that_inflates_too_much_is_refused(client: httpx.AsyncClient) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    response = await client.post(INFER, content=bomb, headers={LENGTH: "10", "Content-Encoding": "gzip"})
    assert response.status_code == 413
    assert "limits.max_body_mib" in error_of(response)


async def test_too_many_images_in_a_tensor_are_refused(backend: FakeBackend) -> None:
    async with client_of(build(backend, limits={"max_images_per_request": 2})) as client:
        for path, request in ((INFER, tensor(np.repeat(IMAGE, 3, axis=0))), (INFER_IMAGE, pictures(b"1", b"2", b"3"))):
            response = await client.post(path, **request)
            assert response.status_code == 413
            assert "limits.max_images_per_request" in error_of(response)
    assert not backend.shapes + backend.pictures


@pytest.mark.parametrize(
    "data", [b"", b"\5\0\0\0abc", b"\1\0\0\0a\1\0\0\0b", b"\xff\xff\xff\xffabc", b"\1\0\0\0ab", b"\1\0"]
)
async def test_damaged_lists_of_images_are_refused(client: httpx.AsyncClient, data: bytes) -> None:
    size = {"binary_data_size": len(data)}
    given = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": size}
    response = await client.post(INFER_IMAGE, **binary(json.dumps({"inputs": [given]}), data))
    assert response.status_code == 400
    assert "elements" in error_of(response)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ([{"name": "output1"}], "one output"),
        ([{"name": "output0", "parameters": {"classification": 3}}], "classification"),
    ],
)
async def test_other_outputs_are_refused(client: httpx.AsyncClient, outputs: Any, text: str) -> None:
    given = {"name": "images", "shape": [1, 3, 1, 1], "datatype": "FP32", "data": [0, 0, 0]}
    response = await client.post(INFER, json={"inputs": [given], "outputs": outputs})
    assert response.status_code == 422
    assert text in error_of(response)


@pytest.mark.parametrize(
    ("parameters", "status_code", "text"),
    [
        ({"nothing": 1}, 422, "nothing"),
        ({"confidence": 2}, 422, "confidence"),
        ({"model": "plates"}, 422, "model: the path names another model, default-image; leave this parameter out"),
        ({"model": "other"}, 404, "no model is named 'other'"),
    ],
)
async def test_wrong_parameters_are_refused(
    client: httpx.AsyncClient, parameters: dict[str, Any], status_code: int, text: str
) -> None:
    response = await client.post(INFER_IMAGE, **pictures(b"picture", **parameters))
    assert response.status_code == status_code
    assert text in error_of(response)


@pytest.mark.parametrize("value", ["false", "true", 1, 0, None, []])
async def test_whether_an_output_is_binary_must_be_a_boolean(
    client: httpx.AsyncClient, backend: FakeBackend, value: Any
) -> None:
    given = {"name": "images", "shape": [1, 3, 1, 1], "datatype": "FP32", "data": [0, 0, 0]}
    outputs = [{"name": "output0", "parameters": {"binary_data": value}}]
    for request in ({"outputs": outputs}, {"parameters": {"binary_data_output": value}}):
        response = await client.post(INFER, json={"inputs": [given]} | request)
        assert response.status_code == 422
        assert "send true or false" in error_of(response)
    assert not backend.shapes


@pytest.mark.parametrize("model", ["default", "codes", "CODES.pt", "codes-image"])
async def test_a_parameter_may_name_the_model_of_the_path(client: httpx.AsyncClient, model: str) -> None:
    assert (await client.post(INFER_IMAGE, **pictures(b"picture", model=model))).status_code == 200


@pytest.mark.parametrize("name", ["CODES-IMAGE", "Codes-Image", "plates.PT-Image"])
async def test_upper_and_lower_case_are_the_same_in_the_suffix(client: httpx.AsyncClient, name: str) -> None:
    response = await client.post(f"/v2/models/{name}/infer", **pictures(b"picture"))
    assert (response.status_code, response.json()["model_name"]) == (200, name)


async def test_a_bad_image_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(INFER_IMAGE, **pictures(b"good", b"bad"))
    assert response.status_code == 422
    assert "truncated or corrupt" in error_of(response)


async def test_the_models_own_refusals_reach_the_client(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    backend.failure = InvalidParameter("inputs: the tensor has numbers that are no multiples of 1/255")
    response = await client.post(INFER, **tensor(np.repeat(IMAGE, 3, axis=0)))
    assert (response.status_code, error_of(response)) == (422, str(backend.failure))
