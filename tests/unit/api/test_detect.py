from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from serve_app.api.bodies import Upload, read_upload
from serve_app.config import parse_args
from serve_app.errors import Overloaded, Unavailable
from serve_app.types import DetectOptions
from tests.support import fakes
from tests.support.api import SharedApi, build, client_of, is_error
from tests.support.fakes import MODEL, FakeBackend

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def shared_api() -> SharedApi:
    limits = {"max_body_mib": 1, "max_images_per_request": 3}
    return SharedApi(limits=limits, models={"plates": {"weights": "plates.onnx"}})


@pytest.fixture
def backend(shared_api: SharedApi) -> FakeBackend:
    return shared_api.reset().backend


@pytest.fixture
async def client(shared_api: SharedApi, backend: FakeBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(shared_api.api) as client:
        yield client


def files(*contents: bytes, name: str = "file") -> list[tuple[str, tuple[str, bytes, str]]]:
    return [(name, (f"{i}.jpg", content, "image/jpeg")) for i, content in enumerate(contents)]


async def test_a_raw_body_is_one_picture(client: httpx.AsyncClient) -> None:
    response = await client.post("/detect", content=b"12345", headers={"X-Request-ID": "abc"})
    assert response.status_code == 200
    body = response.json()
    assert body.pop("timing_ms").keys() == {"decode", "queue", "inference", "postprocess", "total"}
    assert body == {
        "count": 1,
        "detections": [
            {"label": "dog", "class_id": 1, "confidence": 0.75, "bbox": {"x1": 0, "y1": 0, "x2": 5, "y2": 10}}
        ],
        "image": {"width": 5, "height": 10},
        "input": {"width": 640, "height": 640},
        "model": "fake",
        "batch_size": 3,
        "request_id": "abc",
    }


async def test_a_form_with_one_picture_gets_the_same_response_as_a_raw_body(client: httpx.AsyncClient) -> None:
    body = (await client.post("/detect", files=files(b"12345"))).json()
    assert body["image"]["width"] == 5


async def test_several_pictures_get_results_in_order_each_with_its_own_error(client: httpx.AsyncClient) -> None:
    response = await client.post("/detect", files=files(b"1", b"bad", b"333"))
    assert response.status_code == 200
    first, second, third = response.json()["results"]
    assert (first["image"]["width"], third["image"]["width"]) == (1, 3)
    assert second["code"] == "undecodable"


async def test_the_annotated_picture_is_a_jpeg(client: httpx.AsyncClient) -> None:
    response = await client.post("/detect", content=b"1", headers={"Accept": "image/jpeg"})
    assert response.headers["content-type"] == "image/jpeg"
    assert response.content.startswith(b"\xff\xd8\xff")


async def test_the_query_sets_the_thresholds(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    query = "confidence=0.25&iou=0.5&classes=dog,0&classes=1&max_detections=7"
    await client.post(f"/detect?{query}", content=b"1")
    await client.post("/detect", content=b"1")
    assert backend.options == [DetectOptions(0.25, 0.5, 7, (0, 1)), DetectOptions(0.5, 0.7, 300, None)]


async def test_the_query_sets_thresholds_for_each_class(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    await client.post("/detect?confidence=dog:0.6,*:0.3&agnostic_nms=true", content=b"1")
    fields = {"confidence": "dog:0.6,*:0.3", "agnostic_nms": "true"}
    await client.post("/detect", files=files(b"1"), data=fields)
    assert backend.options == [DetectOptions(0.3, 0.7, 300, class_confidence=((1, 0.6),), agnostic_nms=True)] * 2


async def test_a_label_that_contains_a_comma_is_not_split(
    client: httpx.AsyncClient, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = replace(MODEL.engine, labels=("cat", "dog, sitting", "dog", "dog"))
    monkeypatch.setattr(fakes, "MODEL", replace(MODEL, engine=engine))
    for query in ("classes=dog,%20sitting", "classes=dog", "classes=cat,dog", "classes=cat,1"):
        await client.post(f"/detect?{query}", content=b"1")
    assert [options.class_ids for options in backend.options] == [(1,), (2, 3), (0, 2, 3), (0, 1)]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("confidence=7", "confidence"),
        ("confidence=nan", "confidence"),
        ("confidence=0", "confidence"),
        ("confidence=high", "confidence"),
        ("confidence=0_1", "confidence: a number must not contain underscores"),
        ("confidence=dog:2", "confidence: the threshold of 'dog' is 2; use a number from 0.01 to 1"),
        ("confidence=dog:high", "confidence: 'dog:high' does not end in a colon and a number"),
        ("confidence=bird:0.5", "confidence: the model fake has no class 'bird'; GET /models lists its labels"),
        ("agnostic_nms=maybe", "agnostic_nms"),
        ("mask=png", "mask"),
        ("mask=rle&mask=rle", "mask"),
        ("conf=0_1", "confidence: a number must not contain underscores"),
        ("iou=0.1_5", "iou: a number must not contain underscores"),
        ("max_det=1_0", "max_detections: a number must not contain underscores"),
        ("iou=-1", "iou"),
        ("max_detections=0", "max_detections"),
        ("classes=unicorn", "unicorn"),
        ("classes=2", "2"),
        ("confidance=0.5", "confidence?"),
        ("confidence=0.3&confidence=0.9", "confidence"),
        ("classes=", "''"),
        ("classes=dog,", "''"),
    ],
)
async def test_a_wrong_parameter_is_named(client: httpx.AsyncClient, query: str, named: str) -> None:
    response = await client.post(f"/detect?{query}", content=b"1")
    assert is_error(response, 422, "invalid_parameter")
    assert named in response.json()["detail"]


@pytest.mark.parametrize(
    ("request_args", "status_code", "code", "limit"),
    [
        pytest.param({"content": bytes(2**20 + 1)}, 413, "too_large", "limits.max_body_mib", id="large body"),
        pytest.param({"files": files(bytes(2**20))}, 413, "too_large", "limits.max_body_mib", id="large multipart"),
        pytest.param(
            {"files": files(b"1", b"2", b"3", b"4")},
            413,
            "too_large",
            "limits.max_images_per_request",
            id="too many images",
        ),
        pytest.param(
            {"files": files(b"1", name="a") + files(b"2", name="b")},
            400,
            "malformed",
            "",
            id="images with two part names",
        ),
        pytest.param(
            {"content": b"--x\r\nnonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            400,
            "malformed",
            "",
            id="broken multipart",
        ),
        pytest.param(
            {"content": b"1", "headers": {"content-type": "multipart/form-data"}},
            400,
            "malformed",
            "",
            id="no boundary",
        ),
        pytest.param(
            {"content": b"--x--\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            400,
            "malformed",
            "",
            id="no part",
        ),
        pytest.param(
            {
                "content": b'--x\r\nContent-Disposition: form-data; name="confidence"\r\n\r\n0.5\r\n--x--\r\n',
                "headers": {"content-type": "multipart/form-data; boundary=x"},
            },
            400,
            "malformed",
            "",
            id="a field but no image",
        ),
        pytest.param({"content": b"bad"}, 422, "undecodable", "", id="bad image"),
        pytest.param(
            {"files": files(b"1", b"2"), "headers": {"accept": "image/jpeg"}},
            422,
            "invalid_parameter",
            "",
            id="annotation of several images",
        ),
    ],
)
async def test_each_kind_of_invalid_input_gets_its_own_error(
    client: httpx.AsyncClient, request_args: dict[str, Any], status_code: int, code: str, limit: str
) -> None:
    response = await client.post("/detect", **request_args)
    assert is_error(response, status_code, code, limit), response.text


async def test_a_request_is_answered_when_its_deadline_has_passed(backend: FakeBackend) -> None:
    async with client_of(build(backend, limits={"deadline_s": 0.2})) as client:
        assert is_error(await client.post("/detect", content=b"slow"), 504, "deadline_exceeded")


async def test_a_body_without_content_length_is_limited_while_it_is_read(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 2**24:
            sent += 2**16
            yield bytes(2**16)

    assert is_error(await client.post("/detect", content=endless()), 413, "too_large", "limits.max_body_mib")


async def test_a_json_body_with_a_url_has_its_own_limit() -> None:
    async with client_of(build(outbound={"detect_urls": True})) as client:
        for size, code, limit in ((2**14, "malformed", ""), (2**14 + 1, "too_large", "json_body")):
            header = {"Content-Type": "application/json"}
            refused = await client.post("/detect", content=b" " * size, headers=header)
            assert is_error(refused, 413 if limit else 400, code, limit)


async def test_a_truncated_multipart_body_is_refused_as_a_whole(client: httpx.AsyncClient) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\none\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert (await client.post("/detect", content=part + b"--x--\r\n", headers=headers)).status_code == 200
    assert is_error(await client.post("/detect", content=part + part[:-5], headers=headers), 400, "malformed")


def multipart(content: bytes, boundary: bytes = b"x") -> bytes:
    head = b'Content-Disposition: form-data; name="file"; filename="a"'
    return b"--" + boundary + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n--" + boundary + b"--\r\n"


async def test_a_body_with_too_many_possible_parts_is_refused_before_it_is_parsed(client: httpx.AsyncClient) -> None:
    """The parser stops at each line that begins like a boundary.

    Parsing a body of only such lines would take seconds.
    """
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for line, count, status_code in ((b"\r\n--xy", 18, 200), (b"\r\n--xy", 19, 413), (b"\r\n--yx", 10_000, 200)):
        response = await client.post("/detect", content=multipart(line * count), headers=headers)
        assert response.status_code == status_code
        assert response.is_success or is_error(response, 413, "too_large", "limits.max_images_per_request")


@pytest.mark.parametrize(("padding", "status_code"), [(0, 200), (60, 200), (64, 400), (100_000, 400)])
async def test_white_space_after_a_boundary_is_limited(
    client: httpx.AsyncClient, padding: int, status_code: int
) -> None:
    """The parser has to examine every character of the white space."""
    first, second = multipart(b"1").removesuffix(b"--\r\n"), multipart(b"2").removeprefix(b"--x")
    body = first + b" \t" * (padding // 2) + second
    response = await client.post("/detect", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert response.status_code == status_code
    assert response.is_error or len(response.json()["results"]) == 2


@pytest.mark.parametrize("offset", range(-7, 8))
async def test_a_boundary_counts_once_wherever_the_search_slices_fall(client: httpx.AsyncClient, offset: int) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    head = len(multipart(b"").removesuffix(b"\r\n--x--\r\n"))
    for count, status_code in ((17, 200), (18, 413)):
        lines = bytes(2**16 - head + offset) + b"\r\n--xy" * count + bytes(2**16) + b"\r\n--xy"
        assert (await client.post("/detect", content=multipart(lines), headers=headers)).status_code == status_code
    content = multipart(bytes(2**16 - head + offset))
    assert (await client.post("/detect", content=content, headers=headers)).status_code == 200
    assert is_error(await client.post("/detect", content=content[:-4], headers=headers), 400, "malformed")


async def test_other_tasks_run_while_a_large_body_is_parsed() -> None:
    content = bytes(2**20)
    body = multipart(content)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    other = asyncio.create_task(others())
    assert await read_upload(request, parse_args({}).limits, None, "") == Upload([content], is_multipart=True)
    other.cancel()
    assert turns >= 16


async def test_every_refusal_is_counted(client: httpx.AsyncClient, shared_api: SharedApi) -> None:
    await client.post("/detect", files=files(b"1", b"bad", b"bad"))
    await client.post("/detect?confidence=7", content=b"1")
    await client.post("/detect", content=bytes(2**20 + 1))
    await client.get("/nothing")
    assert shared_api.metrics.refusals == ["undecodable", "undecodable", "invalid_parameter", "too_large", "not_found"]
    assert shared_api.metrics.limits == ["", "", "", "limits.max_body_mib", ""]


async def test_an_unexpected_error_is_reported_for_its_picture_only(
    client: httpx.AsyncClient, backend: FakeBackend
) -> None:
    backend.failure = RuntimeError("secret")
    results = (await client.post("/detect", files=files(b"1", b"2"))).json()["results"]
    assert [result["code"] for result in results] == ["internal", "internal"]


async def test_an_unknown_class_is_refused_for_all_pictures(client: httpx.AsyncClient) -> None:
    response = await client.post("/detect?classes=unicorn", files=files(b"1", b"2"))
    assert is_error(response, 422, "invalid_parameter")


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("image/jpeg", "image/jpeg"),
        ("text/html, IMAGE/JPEG; q=0.9, */*; q=0.1", "application/json"),
        ("image/jpeg;q=0, application/json", "application/json"),
        ("image/*, */*", "application/json"),
    ],
)
async def test_the_accept_header_chooses_between_json_and_the_picture(
    client: httpx.AsyncClient, accept: str, media_type: str
) -> None:
    response = await client.post("/detect", content=b"1", headers={"Accept": accept})
    assert response.headers["content-type"] == media_type


async def test_unknown_routes_and_methods_get_the_same_form_of_error(client: httpx.AsyncClient) -> None:
    assert is_error(await client.get("/nothing"), 404, "not_found")
    assert is_error(await client.get("/detect"), 405, "malformed")


async def test_an_unexpected_error_is_not_revealed(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    backend.failure = RuntimeError("secret /path")
    response = await client.post("/detect", content=b"1")
    assert is_error(response, 500, "internal")
    assert "secret" not in response.text


async def test_an_overload_refusal_says_when_to_retry(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    backend.failure = Overloaded("preprocessor.slots: they are in use", limit="preprocessor.slots")
    response = await client.post("/detect", content=b"1")
    assert is_error(response, 503, "overloaded", "preprocessor.slots")
    assert response.headers["retry-after"] == "1"


async def test_a_request_to_a_full_service_is_refused_before_its_body_is_read(
    client: httpx.AsyncClient, backend: FakeBackend
) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    backend.is_full = True
    response = await client.post("/detect", content=body())
    assert is_error(response, 503, "overloaded", "preprocessor.slots")
    assert response.headers["retry-after"] == "1"


async def test_health_and_readiness_differ(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    assert (await client.get("/readyz")).json()["model"] == "fake"
    backend.failure = Unavailable("no detector responds")
    assert (await client.get("/health")).json() == {"status": "ok"}
    assert (await client.get("/livez")).status_code == 200
    assert (await client.head("/health")).status_code == 200
    assert is_error(await client.get("/readyz"), 503, "unavailable")


async def test_the_model_list_shows_the_state_of_each_model(client: httpx.AsyncClient) -> None:
    ready, asleep = (await client.get("/models")).json()["models"]
    assert (ready["name"], ready["state"], ready["model"], ready["task"]) == ("default", "ready", "fake", "detect")
    assert ready["labels"] == ["cat", "dog"]
    assert (asleep["name"], asleep["state"], asleep["model"]) == ("plates", "asleep", None)


async def test_a_request_can_name_its_model(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    for query in ({}, {"model": "plates"}):
        assert (await client.post("/detect", content=b"12345", params=query)).status_code == 200
    assert backend.models_asked == ["default", "plates"]


async def test_an_unknown_model_is_refused_before_the_picture_is_read(
    client: httpx.AsyncClient, backend: FakeBackend
) -> None:
    response = await client.post("/detect", content=b"12345", params={"model": "cars"})
    assert is_error(response, 422, "invalid_parameter")
    assert "default, plates" in response.json()["detail"]
    assert backend.models_asked == []
