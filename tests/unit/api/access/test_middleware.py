"""Who may send a request, through the whole API, with a real keys' file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Message
from websockets.exceptions import InvalidStatus

from tests.support.api import Keys, build, client_of, connect_to, is_error, served_with, statuses, unread, until
from tests.support.fakes import FakeBackend, FakeMetrics

pytestmark = pytest.mark.anyio


async def test_without_its_key_nothing_is_answered(
    keyed: httpx.AsyncClient, keys: Keys, backend: FakeBackend, metrics: FakeMetrics
) -> None:
    good = keys.add("dock", "detect", "streams")["Authorization"]
    wrong = ["", good[:-1], good + "x", good.removeprefix("Bearer "), good.replace("Bearer", "Basic"), "Bearer"]
    for header in ({}, *({"Authorization": text} for text in wrong), {"X-API-Key": good}):
        for method, path in (("POST", "/detect"), ("GET", "/streams"), ("DELETE", "/streams/lot")):
            refused = await keyed.request(method, path, headers=header)
            assert is_error(refused, 401, "unauthorized"), header
            assert refused.headers["www-authenticate"] == "Bearer"
    assert is_error(await keyed.get(f"/streams?api_key={good.removeprefix('Bearer ')}"), 401, "unauthorized")
    assert set(metrics.refusals) == {"unauthorized"}
    assert backend.tenants == []
    for spelling in (good, good.replace("Bearer", "bearer"), good.replace(" ", "  ")):
        assert (await keyed.post("/detect", content=b"1", headers={"Authorization": spelling})).status_code == 200


@pytest.mark.parametrize(
    ("scope", "detect", "streams"), [("detect", 200, 403), ("streams", 403, 200), ("admin", 200, 200)]
)
async def test_a_key_opens_what_its_permissions_include(
    keyed: httpx.AsyncClient, keys: Keys, metrics: FakeMetrics, scope: str, detect: int, streams: int
) -> None:
    header = keys.add("dock", scope)
    answers = [await keyed.post("/detect", content=b"1", headers=header), await keyed.get("/streams", headers=header)]
    assert [answer.status_code for answer in answers] == [detect, streams]
    assert all(answer.is_success or is_error(answer, 403, "forbidden") for answer in answers)
    outcomes = ["admitted" if status_code == 200 else "forbidden" for status_code in (detect, streams)]
    assert metrics.requests == [("dock", outcome) for outcome in outcomes]


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/docs", "/openapi.json"])
async def test_who_only_looks_whether_it_is_there_needs_no_key(keyed: httpx.AsyncClient, path: str) -> None:
    assert (await keyed.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/", "/nothing", "//detect", "/detect%0A", "/DETECT", "/health%0A"])
async def test_a_path_that_only_looks_like_a_route_is_none(keyed: httpx.AsyncClient, keys: Keys, path: str) -> None:
    """Starlette takes ``/detect%0A`` for ``/detect``; a key of another scope must not pass by that."""
    answer = await keyed.post(path, content=b"1", headers=keys.add("dock", "streams"))
    assert is_error(answer, 404, "not_found")


async def test_who_is_refused_is_so_before_a_byte_of_the_body_is_read(keyed: httpx.AsyncClient, keys: Keys) -> None:
    keys.add("dock", "detect")
    for header, status_code in (({}, 401), (keys.add("yard", "streams"), 403)):
        assert (await keyed.post("/detect", content=unread(), headers=header)).status_code == status_code
    for header, status_code in (({}, 401), (keys.add("hall", "detect"), 403)):
        assert (await keyed.post("/streams", content=unread(), headers=header)).status_code == status_code


async def test_below_another_root_the_same_routes_need_the_same_keys(backend: FakeBackend, keys: Keys) -> None:
    transport = httpx.ASGITransport(build(backend, keys), root_path="/sightline")
    async with httpx.AsyncClient(transport=transport, base_url="http://host/sightline") as client:
        assert (await client.get("/readyz")).status_code == 200
        assert is_error(await client.post("/detect", content=b"1"), 401, "unauthorized")
        answer = await client.post("/detect", content=b"1", headers=keys.add("dock", "detect"))
        assert answer.status_code == 200


async def test_a_keys_name_is_the_tenant(
    keyed: httpx.AsyncClient, unkeyed: httpx.AsyncClient, keys: Keys, backend: FakeBackend
) -> None:
    for name in ("dock", "yard", "dock"):
        await keyed.post("/detect", content=b"1", headers=keys.add(name, "detect"))
    await unkeyed.post("/detect", content=b"1")
    assert backend.tenants == ["dock", "yard", "dock", ""]


async def test_one_request_too_many_is_refused_at_once_and_names_the_limit(backend: FakeBackend, keys: Keys) -> None:
    header = keys.add("dock", "detect")
    async with client_of(build(backend, keys, limits={"max_requests": 8, "deadline_s": 60})) as client:
        held = [asyncio.create_task(client.post("/detect", content=b"slow", headers=header)) for _ in range(8)]
        await until(lambda: len(backend.tenants) == 8)
        refused = await client.post("/detect", content=b"1", headers=header)
        assert is_error(refused, 503, "overloaded", "limits.max_requests")
        assert "retry-after" in refused.headers
        assert (await client.get("/livez")).status_code == 200
        for request in held:
            request.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert await statuses(client, header, 1) == [200]


def test_a_websocket_is_refused_before_it_is_accepted(keys: Keys) -> None:
    with served_with(keys, concurrency=1) as served:
        for header, status_code in (({}, 401), (keys.add("yard", "detect"), 403)):
            with pytest.raises(InvalidStatus) as refused:
                connect_to(served, additional_headers=header)
            assert refused.value.response.status_code == status_code
            assert b'"code"' in refused.value.response.body
        with connect_to(served):
            with pytest.raises(InvalidStatus) as refused:
                connect_to(served)
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["retry-after"] == "1"
            assert json.loads(refused.value.response.body)["limit"] == "access.concurrency"


def test_a_refused_websocket_is_told_the_requests_id_as_any_other_request_is(keys: Keys) -> None:
    with served_with(keys) as served, pytest.raises(InvalidStatus) as refused:
        connect_to(served, additional_headers={"X-Request-ID": "abc"})
    assert refused.value.response.headers["x-request-id"] == "abc"
    assert json.loads(refused.value.response.body)["request_id"] == "abc"


async def test_a_server_that_cannot_refuse_a_websocket_by_status_closes_it(backend: FakeBackend, keys: Keys) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the connection was read")

    async def send(message: Message) -> None:
        sent.append(message)

    connection = {"type": "websocket", "path": "/streams/lot/events", "headers": [], "query_string": b""}
    await build(backend, keys)(connection, receive, send)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 4401)]


# Bodies


@pytest.mark.parametrize(("method", "path"), [("POST", "/streams"), ("PUT", "/streams/lot")])
async def test_a_body_of_json_is_limited_while_it_is_read(unkeyed: httpx.AsyncClient, method: str, path: str) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 2**24:
            sent += 2**16
            yield b" " * 2**16

    assert is_error(await unkeyed.request(method, path, content=endless()), 413, "too_large", "json_body")
    assert sent <= 2**20 + 2**16


OPEN = ["/health", "/livez", "/readyz", "/docs", "/openapi.json"]
BODILESS = [("GET", path) for path in [*OPEN, "/streams", "/streams/lot", "/detect"]]
BODILESS += [("HEAD", "/health"), ("HEAD", "/readyz"), ("DELETE", "/streams/lot")]


@pytest.mark.parametrize(("method", "path"), BODILESS)
async def test_a_body_where_none_belongs_is_refused_and_not_waited_for(
    unkeyed: httpx.AsyncClient, method: str, path: str
) -> None:
    """Otherwise a client without a key could hold a request open with a body that never comes."""
    for header in ({"Content-Length": "5"}, {"Transfer-Encoding": "chunked"}):
        answer = await unkeyed.request(method, path, content=unread(), headers=header)
        assert answer.status_code == 400
        assert method == "HEAD" or is_error(answer, 400, "malformed")


@pytest.mark.parametrize(
    ("method", "path", "status_code"),
    [*((("GET", path, 200)) for path in OPEN), ("GET", "/streams", 200), ("DELETE", "/streams/lot", 404)]
    + [("POST", path, 405) for path in OPEN],
)
async def test_what_has_no_body_is_answered_without_a_look_for_one(
    backend: FakeBackend, method: str, path: str, status_code: int
) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", b"0" if method != "POST" else b"5")]
    connection = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
    await build(backend, None)(connection, receive, send)
    assert sent[0]["status"] == status_code
