"""The places in which the clients of other servers send API keys."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from serve_app.api.access import credentials, protocols
from serve_app.api.access.keys import KeyFile
from serve_app.api.access.middleware import Access, tenant_of
from serve_app.api.access.permissions import Router, RouteTable
from serve_app.api.access.protocols import KeyPlace, Protocol
from serve_app.api.access.reload import KeyReloader
from serve_app.api.access.sessions import Sessions
from serve_app.config import parse_args
from serve_app.errors import ServeAppError
from serve_app.network.address_guard import networks_in
from serve_app.types import Json
from tests.support.api import Keys, client_of, until
from tests.support.fakes import FakeMetrics

pytestmark = pytest.mark.anyio

WRONG = ["", "None", "null", "sl_wrong"]


def api_of(keys: Keys, *places: KeyPlace, allow_from: str = "", metrics: FakeMetrics | None = None) -> FastAPI:
    """Return an application with one route, which answers with the caller's name, the query and the body's size."""

    def error(error: ServeAppError, request_id: str) -> tuple[int, Json]:
        return error.status_code, {"error": error.detail}

    protocol = Protocol("open_inference", error, frozenset(places), networks_in(allow_from))
    routes = Router(permission="detect", reads_own_body=True, protocol=protocol)

    @routes.post("/echo")
    async def echo(request: Request) -> JSONResponse:
        size = len(await request.body())
        return JSONResponse({"name": tenant_of(request), "query": request.url.query, "size": size})

    api = FastAPI()
    api.include_router(routes)
    args = parse_args({"access": {"keys_file": str(keys.path)}, "cors": {"origins": "https://app.example"}})
    counted = metrics or FakeMetrics()
    api.add_middleware(
        Access,
        routes=RouteTable([routes]),
        metrics=counted,
        args=args,
        keys=KeyReloader(KeyFile(keys.path), counted),
        sessions=Sessions(keys.path.parent),
    )
    return api


def text_of(header: dict[str, str]) -> str:
    return header["Authorization"].removeprefix("Bearer ")


async def test_a_key_in_the_query_is_accepted_and_removed_from_the_query(keys: Keys) -> None:
    key = text_of(keys.add("dock", "detect"))
    async with client_of(api_of(keys, "query")) as client:
        accepted = await client.post("/echo", params={"a": "1 2", "api_key": key, "b": ""}, content=b"12")
        assert accepted.json() == {"name": "dock", "query": "a=1+2&b=", "size": 2}
        for wrong in WRONG:
            refused = await client.post("/echo", params={"api_key": wrong})
            assert refused.status_code == 401
            assert refused.json().keys() == {"error"}
    async with client_of(api_of(keys)) as client:  # a protocol without keys in the query
        assert (await client.post("/echo", params={"api_key": key})).status_code == 401


async def test_the_name_of_a_key_in_the_query_may_have_escapes(keys: Keys) -> None:
    key = text_of(keys.add("dock", "detect"))
    async with client_of(api_of(keys, "query")) as client:
        accepted = await client.post(f"/echo?%61pi%5Fkey={key}&a=%C3%A4")
        assert accepted.json() == {"name": "dock", "query": "a=%C3%A4", "size": 0}


@pytest.mark.parametrize(
    ("path", "places"), [("/nothing", ["query"]), ("/nothing", []), ("/echo", ["form"]), ("/echo", [])]
)
@pytest.mark.parametrize("name", ["api_key", "api%5Fkey"])
async def test_a_key_in_a_query_that_may_have_none_is_removed_too(
    keys: Keys, path: str, places: list[KeyPlace], name: str
) -> None:
    api, seen = api_of(keys, *places), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await api(scope, receive, send)
        seen.append(scope["query_string"])

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        refused = await client.post(f"{path}?a=1&{name}=sl_secret")
    assert refused.status_code in {401, 404}
    assert "secret" not in refused.text
    assert seen == [b"a=1&api_key="]


async def test_the_password_of_basic_authentication_may_be_a_key(keys: Keys) -> None:
    key = text_of(keys.add("dock", "detect"))
    async with client_of(api_of(keys, "basic")) as client:
        assert (await client.post("/echo", auth=("anyone", key))).json()["name"] == "dock"
        assert (await client.post("/echo", auth=(key, ""))).status_code == 401
        for value in ("", "#", base64.b64encode(b"\xff:\xff").decode()):
            assert (await client.post("/echo", headers={"Authorization": f"Basic {value}"})).status_code == 401
    async with client_of(api_of(keys, "form")) as client:
        assert (await client.post("/echo", auth=("anyone", key))).status_code == 401


async def test_a_key_in_the_body_is_accepted_and_the_route_gets_the_whole_body(keys: Keys) -> None:
    key = text_of(keys.add("dock", "detect"))
    body = json.dumps({"a": "x" * 100_000, "api_key": key}).encode()
    async with client_of(api_of(keys, "query", "json")) as client:
        assert (await client.post("/echo", content=body)).json() == {"name": "dock", "query": "", "size": len(body)}
        for wrong in WRONG:
            assert (await client.post("/echo", json={"api_key": wrong})).status_code == 401
        assert (await client.post("/echo", content=b'{"api_key": {"api_key": 1}}')).status_code == 401
    async with client_of(api_of(keys, "form")) as client:
        picture = {"image": b"\xff\xd8" + bytes(100_000)}
        accepted = await client.post("/echo", data={"api_key": key}, files=picture)
        assert accepted.json()["name"] == "dock"
        assert accepted.json()["size"] > 100_000
        for wrong in WRONG:
            assert (await client.post("/echo", data={"api_key": wrong}, files=picture)).status_code == 401
        assert (await client.post("/echo", data={"api_key": key})).status_code == 401  # it is not multipart


async def test_a_compressed_body_with_a_key_reaches_the_route_inflated(keys: Keys) -> None:
    body = json.dumps({"api_key": text_of(keys.add("dock", "detect")), "a": "x" * 1000}).encode()
    async with client_of(api_of(keys, "json")) as client:
        packed = await client.post("/echo", content=gzip.compress(body), headers={"Content-Encoding": "gzip"})
    assert packed.json()["size"] == len(body)


async def unreadable() -> AsyncIterator[bytes]:
    raise AssertionError("the body must not be read")
    yield b""


async def test_a_key_in_a_header_or_in_the_query_is_checked_before_the_body_is_read(keys: Keys) -> None:
    other = keys.add("yard", "streams")
    async with client_of(api_of(keys, "query", "json")) as client:
        assert (await client.post("/echo", content=unreadable(), headers=other)).status_code == 403
        query = {"api_key": text_of(other)}
        assert (await client.post("/echo", content=unreadable(), params=query)).status_code == 403


class Bodies:
    """Request bodies that stop in the middle until they may finish, and the number of those that are being read."""

    def __init__(self, key: str) -> None:
        self.reading = self.most = self.begun = 0
        self.may_finish = asyncio.Event()
        self._key = key

    async def one(self) -> AsyncIterator[bytes]:
        self.begun += 1
        self.reading += 1
        self.most = max(self.most, self.reading)
        try:
            yield b"{"
            await self.may_finish.wait()
            yield f'"api_key": "{self._key}"}}'.encode()
        finally:
            self.reading -= 1


async def post_from(api: FastAPI, address: str, body: AsyncIterator[bytes]) -> httpx.Response:
    transport = httpx.ASGITransport(api, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post("/echo", content=body)


async def test_only_four_bodies_with_keys_are_read_at_the_same_time_and_two_of_a_client(keys: Keys) -> None:
    bodies, metrics = Bodies(text_of(keys.add("dock", "detect"))), FakeMetrics()
    api = api_of(keys, "json", metrics=metrics)
    first = [asyncio.create_task(post_from(api, "10.0.0.1", bodies.one())) for _ in range(8)]
    await until(lambda: bodies.reading == 2)
    others = [asyncio.create_task(post_from(api, f"10.0.0.{n % 8}", bodies.one())) for n in range(2, 26)]
    await until(lambda: bodies.reading == 4)
    bodies.may_finish.set()
    assert {response.status_code for response in await asyncio.gather(*first, *others)} == {200}
    assert bodies.most == 4
    assert metrics.requests == [("dock", "admitted")] * 32


@pytest.mark.parametrize("behind_haproxy", [True, False])
async def test_a_client_that_never_completes_its_bodies_does_not_delay_other_clients(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, behind_haproxy: bool
) -> None:
    monkeypatch.setattr(protocols, "_BEHIND_HAPROXY", behind_haproxy)
    key = keys.add("dock", "detect")
    api, endless, complete = api_of(keys, "json"), Bodies(text_of(key)), Bodies(text_of(key))
    complete.may_finish.set()

    async def post(address: str, body: AsyncIterator[bytes]) -> httpx.Response:
        if not behind_haproxy:
            return await post_from(api, address, body)
        async with client_of(api) as client:
            forged = f"10.9.9.{endless.begun}"  # the client's own entry precedes that of HAProxy
            return await client.post("/echo", content=body, headers={"X-Forwarded-For": f"{forged}, {address}"})

    held = [asyncio.create_task(post("10.0.0.1", endless.one())) for _ in range(8)]
    await until(lambda: endless.reading == 2)
    assert (await post("10.0.0.2", complete.one())).status_code == 200
    assert not any(task.done() for task in held)
    endless.may_finish.set()
    await asyncio.gather(*held)


async def test_the_time_for_a_body_with_a_key_begins_when_the_server_reads_it(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "_TIMEOUT_S", 0.1)
    bodies = Bodies(text_of(keys.add("dock", "detect")))
    api = api_of(keys, "json")
    responses = await asyncio.gather(*(post_from(api, "10.0.0.1", bodies.one()) for _ in range(7)))
    assert {response.status_code for response in responses} == {504}
    assert bodies.begun == 7


async def test_few_bodies_with_keys_may_wait_and_not_for_long(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_WAIT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(credentials, "_MAX_WAITING", 8)  # 4 of one client
    bodies, metrics = Bodies(text_of(keys.add("dock", "detect"))), FakeMetrics()
    api = api_of(keys, "json", metrics=metrics)
    first = [asyncio.create_task(post_from(api, "10.0.0.1", bodies.one())) for _ in range(4)]
    await until(lambda: bodies.reading == 2)
    assert (await post_from(api, "10.0.0.1", bodies.one())).status_code == 503
    await until(lambda: sum(task.done() for task in first) == 2)
    bodies.may_finish.set()
    assert sorted(response.status_code for response in await asyncio.gather(*first)) == [200, 200, 503, 503]
    assert set(metrics.limits) == {"bodies_with_keys"}


async def test_clients_in_an_allowed_network_need_no_key(keys: Keys) -> None:
    header = keys.add("dock", "detect")
    async with client_of(api_of(keys, "basic", allow_from="127.0.0.0/8, 10.1.0.0/16")) as client:
        assert (await client.post("/echo")).json()["name"] == ""
        assert (await client.post("/echo", headers=header)).json()["name"] == "dock"
        assert (await client.post("/echo", auth=("a", "wrong"))).status_code == 401
        for addresses, status_code in (
            ("10.1.2.3", 200),
            ("::ffff:10.1.2.3", 200),
            ("10.1.2.3, 127.0.0.1", 200),
            ("10.2.2.3", 401),
            ("10.1.2.3, 10.2.2.3", 401),
            ("10.2.2.3, 10.1.2.3", 401),
            ("unknown", 401),
            ("", 200),
        ):
            response = await client.post("/echo", headers={"X-Forwarded-For": addresses} if addresses else {})
            assert response.status_code == status_code, addresses


@pytest.mark.parametrize("behind_haproxy", [True, False])
async def test_only_our_haproxy_may_forward_requests_without_being_in_the_list(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, behind_haproxy: bool
) -> None:
    monkeypatch.setattr(protocols, "_BEHIND_HAPROXY", behind_haproxy)
    async with client_of(api_of(keys, "basic", allow_from="10.1.0.0/16")) as client:
        assert (await client.post("/echo")).status_code == 401
        forwarded = await client.post("/echo", headers={"X-Forwarded-For": "10.1.2.3"})
        assert forwarded.status_code == (200 if behind_haproxy else 401)
        # Another proxy on this machine may forward what its client has written, and HAProxy adds this proxy's address.
        unchecked = await client.post("/echo", headers={"X-Forwarded-For": "10.1.2.3, 127.0.0.1"})
        assert unchecked.status_code == 401


async def test_web_pages_in_an_allowed_network_need_a_key(keys: Keys) -> None:
    header = keys.add("dock", "detect")
    async with client_of(api_of(keys, allow_from="127.0.0.0/8")) as client:
        for page in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await client.post("/echo", headers=page)).status_code == 403
            assert (await client.post("/echo", headers=page | header)).status_code == 200
        ours = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
        assert (await client.post("/echo", headers=ours)).status_code == 200


async def test_an_error_of_a_missing_key_says_where_the_client_can_put_it(keys: Keys) -> None:
    async with client_of(api_of(keys, "query", "json")) as client:
        detail = (await client.post("/echo")).json()["error"]
    assert "Authorization: Bearer KEY, or as the field api_key of the JSON body, or as the parameter api_key" in detail
