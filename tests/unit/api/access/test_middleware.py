"""Admission of requests, tested through the whole API with a real API-key file."""

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


async def test_a_request_without_a_valid_key_is_refused(
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
    ("scopes", "status_code"), [(["detect"], 403), (["jobs"], 403), (["detect", "jobs"], 202), (["admin"], 202)]
)
async def test_detect_needs_two_permissions_to_start_a_job(
    keyed: httpx.AsyncClient, keys: Keys, scopes: list[str], status_code: int
) -> None:
    header = keys.add("dock", *scopes) | {"Prefer": "respond-async"}
    response = await keyed.post("/detect", content=b"1", headers=header)
    assert response.status_code == status_code
    assert response.is_success or is_error(response, 403, "forbidden")
    assert not response.is_success or response.json()["owner"] == "dock"


@pytest.mark.parametrize(
    ("scope", "detect", "streams"), [("detect", 200, 403), ("streams", 403, 200), ("admin", 200, 200)]
)
async def test_a_key_admits_requests_that_its_permissions_include(
    keyed: httpx.AsyncClient, keys: Keys, metrics: FakeMetrics, scope: str, detect: int, streams: int
) -> None:
    header = keys.add("dock", scope)
    responses = [await keyed.post("/detect", content=b"1", headers=header), await keyed.get("/streams", headers=header)]
    assert [response.status_code for response in responses] == [detect, streams]
    assert all(response.is_success or is_error(response, 403, "forbidden") for response in responses)
    outcomes = ["admitted" if status_code == 200 else "forbidden" for status_code in (detect, streams)]
    assert metrics.requests == [("dock", outcome) for outcome in outcomes]


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/docs", "/openapi.json"])
async def test_health_checks_and_the_documentation_need_no_key(keyed: httpx.AsyncClient, path: str) -> None:
    assert (await keyed.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/detect%0A", "/DETECT", "/health%0A"])
async def test_a_path_that_only_resembles_a_route_gets_404(keyed: httpx.AsyncClient, keys: Keys, path: str) -> None:
    """Starlette matches ``/detect%0A`` to ``/detect``. A key without the scope ``detect`` must still be refused."""
    response = await keyed.post(path, content=b"1", headers=keys.add("dock", "streams"))
    assert is_error(response, 404, "not_found")


async def test_a_request_is_refused_before_any_of_its_body_is_read(keyed: httpx.AsyncClient, keys: Keys) -> None:
    keys.add("dock", "detect")
    for header, status_code in (({}, 401), (keys.add("yard", "streams"), 403)):
        assert (await keyed.post("/detect", content=unread(), headers=header)).status_code == status_code
    for header, status_code in (({}, 401), (keys.add("hall", "detect"), 403)):
        assert (await keyed.post("/streams", content=unread(), headers=header)).status_code == status_code


async def test_routes_below_a_root_path_need_the_same_keys(backend: FakeBackend, keys: Keys) -> None:
    transport = httpx.ASGITransport(build(backend, keys), root_path="/sightline")
    async with httpx.AsyncClient(transport=transport, base_url="http://host/sightline") as client:
        assert (await client.get("/readyz")).status_code == 200
        assert is_error(await client.post("/detect", content=b"1"), 401, "unauthorized")
        response = await client.post("/detect", content=b"1", headers=keys.add("dock", "detect"))
        assert response.status_code == 200


async def test_the_name_of_a_key_is_the_tenant(
    keyed: httpx.AsyncClient, unkeyed: httpx.AsyncClient, keys: Keys, backend: FakeBackend
) -> None:
    for name in ("dock", "yard", "dock"):
        await keyed.post("/detect", content=b"1", headers=keys.add(name, "detect"))
    await unkeyed.post("/detect", content=b"1")
    assert backend.tenants == ["dock", "yard", "dock", ""]


async def test_a_request_beyond_the_limit_is_refused_at_once_with_the_limits_name(
    backend: FakeBackend, keys: Keys
) -> None:
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


def test_the_refusal_of_a_websocket_has_the_request_id(keys: Keys) -> None:
    with served_with(keys) as served, pytest.raises(InvalidStatus) as refused:
        connect_to(served, additional_headers={"X-Request-ID": "abc"})
    assert refused.value.response.headers["x-request-id"] == "abc"
    assert json.loads(refused.value.response.body)["request_id"] == "abc"


async def test_a_websocket_is_closed_if_it_cannot_be_refused_with_a_status(backend: FakeBackend, keys: Keys) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the connection was read")

    async def send(message: Message) -> None:
        sent.append(message)

    connection = {"type": "websocket", "path": "/streams/lot/events", "headers": [], "query_string": b""}
    await build(backend, keys)(connection, receive, send)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 4401)]


# Request bodies


@pytest.mark.parametrize(("method", "path"), [("POST", "/streams"), ("PUT", "/streams/lot")])
async def test_a_json_body_is_limited_while_it_is_read(unkeyed: httpx.AsyncClient, method: str, path: str) -> None:
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
async def test_a_body_on_a_method_without_one_is_refused_without_waiting_for_it(
    unkeyed: httpx.AsyncClient, method: str, path: str
) -> None:
    """If the server waited, a client without a key could keep a request open with a body that never arrives."""
    for header in ({"Content-Length": "5"}, {"Transfer-Encoding": "chunked"}):
        response = await unkeyed.request(method, path, content=unread(), headers=header)
        assert response.status_code == 400
        assert method == "HEAD" or is_error(response, 400, "malformed")


@pytest.mark.parametrize(
    ("method", "path", "status_code"),
    [*((("GET", path, 200)) for path in OPEN), ("GET", "/streams", 200), ("DELETE", "/streams/lot", 404)]
    + [("POST", path, 405) for path in OPEN],
)
async def test_a_route_without_a_body_responds_without_reading_one(
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
