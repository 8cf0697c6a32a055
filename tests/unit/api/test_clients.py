"""Send requests as real clients do. The server finds the image, or returns an error that says how to send it."""

from __future__ import annotations

import base64
import gzip
import json
import random
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest

from scripts.trials.field.clients.requests import Sent, codings, multipart_forms, parameters, refused, texts, types
from serve_app.images.decode import decode
from serve_app.types import Answer, PictureRequest
from tests.support.api import STREAM, SharedApi, build, client_of, is_error
from tests.support.fakes import FakeBackend

pytestmark = pytest.mark.anyio
PICTURE = b"\xff\xd8\xff\xe0\0\x10JFIF\r\n\n" + random.Random(19).randbytes(9000)
ACCEPTED = multipart_forms(PICTURE) | types(PICTURE) | codings(PICTURE)
REFUSED = refused(PICTURE)
TEXTS = texts(PICTURE)
JSON = json.dumps(STREAM).encode()


@pytest.fixture(scope="module")
def shared_api() -> SharedApi:
    return SharedApi(limits={"deadline_s": 20})


@pytest.fixture
def backend(shared_api: SharedApi) -> FakeBackend:
    return shared_api.reset().backend


@pytest.fixture
async def client(shared_api: SharedApi, backend: FakeBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(shared_api.api) as client:
        yield client


async def post(client: httpx.AsyncClient, sent: Sent) -> httpx.Response:
    return await client.post(sent.path, content=sent.body, headers=sent.headers)


@pytest.mark.parametrize("member", ACCEPTED)
async def test_the_picture_reaches_the_backend_unchanged(
    client: httpx.AsyncClient, backend: FakeBackend, member: str
) -> None:
    response = await post(client, ACCEPTED[member])
    assert response.status_code == 200, response.text
    assert backend.pictures == [PICTURE]


@pytest.mark.parametrize("member", parameters(PICTURE))
async def test_every_alias_of_confidence_is_accepted(
    client: httpx.AsyncClient, backend: FakeBackend, member: str
) -> None:
    response = await post(client, parameters(PICTURE)[member])
    assert response.status_code == 200, response.text
    assert [options.confidence for options in backend.options] == [0.3]


@pytest.mark.parametrize("member", REFUSED)
async def test_a_refusal_says_what_to_do_instead(client: httpx.AsyncClient, backend: FakeBackend, member: str) -> None:
    sent, status_code, word = REFUSED[member]
    response = await post(client, sent)
    assert response.status_code == status_code, response.text
    assert word in response.json()["detail"]
    assert backend.pictures == []


class DecodingBackend(FakeBackend):
    """A backend that refuses bytes that do not decode to an image."""

    async def detect(self, request: PictureRequest) -> Answer:
        decode(request.data, max_pixels=1)
        return await super().detect(request)


@pytest.mark.parametrize("member", TEXTS)
async def test_text_instead_of_a_picture_is_refused_with_how_to_send_one(member: str) -> None:
    async with client_of(build(DecodingBackend())) as client:
        response = await post(client, TEXTS[member])
        several = await client.post("/detect", files=[("file", TEXTS[member].body), ("file", b"\0\1\2")])
    assert is_error(response, 415, "not_an_image"), response.text
    assert "--data-binary" in response.json()["detail"]
    text, octets = several.json()["results"]
    assert text["code"] == octets["code"] == "not_an_image"
    assert ("--data-binary" in text["detail"], "--data-binary" in octets["detail"]) == (True, False)


async def test_only_the_first_bytes_are_checked_for_text(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    """Spaces and quotes may precede base64. Scanning a long body of spaces would block all other requests."""
    text = base64.b64encode(b"\xff\xd8\xff" + PICTURE)
    for before, after in ((b' \n"', text), (b" '" * 512, text), (b"data:" + b"a" * 1024 + b"/jpeg,", text)):
        response = await client.post("/detect", content=before + after)
        assert response.status_code == (415 if len(before) < 1024 else 200)
    blank = b" " * 2**14
    response = await client.post("/detect", content=blank + b'{"url": "http://a/"}')
    assert response.status_code == 200
    assert len(backend.pictures) == 3


async def test_an_unsupported_coding_is_refused_with_the_supported_ones(client: httpx.AsyncClient) -> None:
    response = await post(client, REFUSED["brotli"][0])
    assert is_error(response, 415, "unsupported_encoding")
    assert response.headers["accept-encoding"] == "gzip, deflate"


async def test_pictures_under_another_part_name_keep_their_order(client: httpx.AsyncClient) -> None:
    files = [("images", (f"{size}.jpg", b"x" * size, "image/jpeg")) for size in (3, 5)]
    results = (await client.post("/detect", files=files)).json()["results"]
    assert [result["image"]["width"] for result in results] == [3, 5]


async def test_form_fields_and_the_query_are_combined(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    files = {"file": ("a.jpg", PICTURE, "image/jpeg")}
    fields = {"iou_thres": "0.4", "classes[]": ["dog", "0"], "max_det": "7"}
    assert (await client.post("/detect?conf=0.3", files=files, data=fields)).status_code == 200
    (options,) = backend.options
    assert (options.confidence, options.iou, options.max_detections, options.class_ids) == (0.3, 0.4, 7, (0, 1))
    twice = await client.post("/detect?conf=0.3", files=files, data={"confidence": "0.3"})
    assert is_error(twice, 422, "invalid_parameter")
    unknown = await client.post("/detect", files=files, data={"model": "cars"})
    assert is_error(unknown, 422, "invalid_parameter")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "", "text/json", "*/*"])
@pytest.mark.parametrize("body", [JSON, b"\xef\xbb\xbf" + JSON, b" \r\n" + JSON], ids=["plain", "BOM", "white space"])
async def test_a_stream_starts_with_any_content_type_of_its_json(
    client: httpx.AsyncClient, kind: str, body: bytes
) -> None:
    response = await client.post("/streams", content=body, headers={"Content-Type": kind} if kind else {})
    assert response.status_code == 201, response.text


async def test_a_page_of_another_origin_must_send_json_with_its_content_type(client: httpx.AsyncClient) -> None:
    """A browser sends a CORS preflight before it sends JSON to another origin, but not before it sends text."""
    for kind, status_code in (("text/plain", 422), ("application/json", 201)):
        headers = {"Content-Type": kind, "Origin": "http://localhost:3000"}
        response = await client.post("/streams", content=JSON, headers=headers)
        assert response.status_code == status_code
        assert response.is_success or "Content-Type: application/json" in response.json()["detail"]
    fetched = await client.post("/detect", content=b'{"url": "http://a/"}', headers={"Origin": "http://localhost:3000"})
    assert is_error(fetched, 422, "invalid_parameter")
    assert "Content-Type: application/json" in fetched.json()["detail"]


async def test_the_json_of_a_stream_may_be_compressed(client: httpx.AsyncClient) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    assert (await client.post("/streams", content=gzip.compress(JSON), headers=headers)).status_code == 201
    bomb = gzip.compress(b" " * (1 << 20) + JSON)
    assert is_error(await client.post("/streams", content=bomb, headers=headers), 413, "too_large", "json_body")


@pytest.mark.parametrize(
    ("body", "status_code", "word"),
    [
        (b"{", 400, "not valid JSON"),
        (b"", 422, "application/json"),
        (b"[]", 422, "object"),
        (b"[" * 5000, 400, "not valid JSON"),
        (b'{"id": "\xff"}', 400, "not valid JSON"),
        (
            json.dumps(STREAM | {"detect": {"conf": 0.3}}).encode(),
            422,
            "detect.conf: there is no such field; use confidence",
        ),
        (json.dumps(STREAM | {"sauce": 1}).encode(), 422, "sauce: there is no such field"),
        (
            json.dumps(STREAM | {"detect": {"classes": ["\ud800"]}}).encode(),
            422,
            "detect.classes.0: the label contains half",
        ),
        (
            json.dumps(STREAM | {"detect": {"classes": ["a\udc00b"]}}).encode(),
            422,
            "detect.classes.0: the label contains half",
        ),
        *(
            (
                json.dumps(STREAM | {"detect": {"classes": ["dog", wrong]}}).encode(),
                422,
                "detect.classes.1: a class must be",
            )
            for wrong in (True, 1.5, None, {"id": 1})
        ),
        (json.dumps(STREAM | {"detect": {"confidence": "0_1"}}).encode(), 422, "detect.confidence: a number must not"),
    ],
)
async def test_invalid_json_is_refused_with_the_reason(
    client: httpx.AsyncClient, body: bytes, status_code: int, word: str
) -> None:
    response = await client.post("/streams", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status_code
    assert word in response.json()["detail"]


@pytest.mark.parametrize("path", ["/detect", "/detect/", "//detect", "///detect//"])
async def test_extra_slashes_in_a_path_are_ignored(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(f"http://localhost{path}", content=PICTURE)
    assert response.status_code == 200


async def test_docs_with_a_slash_redirects_to_docs(client: httpx.AsyncClient) -> None:
    response = await client.get("/docs/")
    assert (response.status_code, response.headers["location"]) == (308, "../docs")


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH"])
async def test_an_unsupported_method_is_refused_with_the_supported_one(client: httpx.AsyncClient, method: str) -> None:
    response = await client.request(method, "/detect")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert method == "HEAD" or response.json()["detail"] == f"{method} is not supported by this route; use POST"


async def test_a_body_that_inflates_to_a_multiple_of_the_piece_size_is_complete(
    client: httpx.AsyncClient, backend: FakeBackend
) -> None:
    for size in (2**16 - 1, 2**16, 2**17, 2**17 + 1):
        content = PICTURE[:8] + bytes(size - 8)
        body = zlib.compress(content)
        assert (await client.post("/detect", content=body, headers={"Content-Encoding": "deflate"})).status_code == 200
        assert backend.pictures[-1] == content


async def test_a_gzip_body_with_too_many_members_is_refused(client: httpx.AsyncClient) -> None:
    body = gzip.compress(b"") * 5000
    response = await client.post("/detect", content=body, headers={"Content-Encoding": "gzip"})
    assert is_error(response, 400, "malformed")


@pytest.mark.parametrize("path", ["/health", "/models", "/streams", "/streams/lot", "/streams/lot/regions"])
async def test_routes_with_get_also_support_head(client: httpx.AsyncClient, path: str) -> None:
    await client.post("/streams", json=STREAM)
    assert (await client.head(path)).status_code == (await client.get(path)).status_code == 200
