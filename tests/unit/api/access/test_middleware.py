"""Who may ask, and how much: through the whole API, with a real keys' file."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from serve_app.api.access import middleware as access
from serve_app.api.access.keys import KeyFile, make_key
from serve_app.api.access.local import require_keys
from serve_app.api.access.middleware import first_part
from serve_app.api.app import build_api
from serve_app.config import parse_args
from serve_app.errors import ConfigError
from tests.support.fakes import FakePipeline, FakeStreams
from tests.support.stream_server import StreamServer, serve_streams

pytestmark = pytest.mark.anyio
STREAM = {"id": "lot", "source": {"uri": "rtsp://camera/1"}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline()


class Keys:
    """A file of keys, and how each is presented."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: list[dict[str, Any]] = []
        self.save()

    def add(self, name: str, *scopes: str, **fields: Any) -> dict[str, str]:
        """The header with a new key."""
        key, entry = make_key(name, scopes)
        self._entries.append(entry | fields)
        self.save()
        return {"Authorization": f"Bearer {key}"}

    def clear(self) -> None:
        self._entries = []
        self.save()

    def save(self) -> None:
        self.path.write_text(yaml.safe_dump(self._entries))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.yaml")


@pytest.fixture(autouse=True)
def always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the file, with every request."""
    monkeypatch.setattr(access, "_LOOK_PERIOD_S", 0.0)
    monkeypatch.setattr(access, "_WATCH_PERIOD_S", 0.01)


def build(pipeline: FakePipeline, keys: Keys | None, **args: Any) -> FastAPI:
    own = args.pop("access", {}) | ({"keys_file": str(keys.path)} if keys else {})
    return build_api(pipeline, FakeStreams(), parse_args({"access": own, "limits": {"deadline_s": 0.2}} | args))


def client_of(api: FastAPI, host: str = "localhost") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}")


@pytest.fixture
async def keyed(pipeline: FakePipeline, keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    """The API with keys."""
    async with client_of(build(pipeline, keys), "sightline.example") as client:
        yield client


@pytest.fixture
async def unkeyed(pipeline: FakePipeline) -> AsyncIterator[httpx.AsyncClient]:
    """The API without."""
    async with client_of(build(pipeline, None)) as client:
        yield client


def is_error(response: httpx.Response, status_code: int, code: str) -> bool:
    body = response.json()
    return (response.status_code, body["code"]) == (status_code, code) and set(body) == {"code", "detail", "request_id"}


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not look():
            await asyncio.sleep(0.01)


# Who


async def test_without_its_key_nothing_is_answered(
    keyed: httpx.AsyncClient, keys: Keys, pipeline: FakePipeline
) -> None:
    good = keys.add("dock", "detect", "streams")["Authorization"]
    wrong = ["", good[:-1], good + "x", good.removeprefix("Bearer "), good.replace("Bearer", "Basic"), "Bearer"]
    for header in ({}, *({"Authorization": text} for text in wrong), {"X-API-Key": good}):
        for method, path in (("POST", "/detect"), ("GET", "/streams"), ("DELETE", "/streams/lot")):
            refused = await keyed.request(method, path, headers=header)
            assert is_error(refused, 401, "unauthorized"), header
            assert refused.headers["www-authenticate"] == "Bearer"
    assert is_error(await keyed.get(f"/streams?api_key={good.removeprefix('Bearer ')}"), 401, "unauthorized")
    assert set(pipeline.refusals) == {"unauthorized"}
    assert pipeline.tenants == []
    for header in (good, good.replace("Bearer", "bearer"), good.replace(" ", "  ")):
        assert (await keyed.post("/detect", content=b"1", headers={"Authorization": header})).status_code == 200


@pytest.mark.parametrize(
    ("scope", "detect", "streams"), [("detect", 200, 403), ("streams", 403, 200), ("admin", 200, 200)]
)
async def test_a_key_opens_what_its_scopes_include(
    keyed: httpx.AsyncClient, keys: Keys, pipeline: FakePipeline, scope: str, detect: int, streams: int
) -> None:
    header = keys.add("dock", scope)
    answers = [await keyed.post("/detect", content=b"1", headers=header), await keyed.get("/streams", headers=header)]
    assert [answer.status_code for answer in answers] == [detect, streams]
    assert all(answer.is_success or is_error(answer, 403, "forbidden") for answer in answers)
    outcomes = ["admitted" if status_code == 200 else "forbidden" for status_code in (detect, streams)]
    assert pipeline.requests == [("dock", outcome) for outcome in outcomes]


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/docs", "/openapi.json"])
async def test_who_only_looks_whether_it_is_there_needs_no_key(keyed: httpx.AsyncClient, path: str) -> None:
    assert (await keyed.get(path)).status_code == 200


def routes_of(api: FastAPI) -> set[str]:
    return {*api.openapi()["paths"], *(route.path for route in api.routes if hasattr(route, "path"))}


async def test_every_route_needs_a_scope_or_is_open_by_name(pipeline: FakePipeline) -> None:
    paths = routes_of(build(pipeline, None))
    assert {"/detect", "/streams/{stream_id}/events", "/readyz", "/openapi.json"} <= paths
    assert {first_part(path) for path in paths} <= access._SCOPES.keys() | access._OPEN
    assert not access._SCOPES.keys() & access._OPEN


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


async def test_below_another_root_the_same_routes_need_the_same_keys(pipeline: FakePipeline, keys: Keys) -> None:
    transport = httpx.ASGITransport(build(pipeline, keys), root_path="/sightline")
    async with httpx.AsyncClient(transport=transport, base_url="http://host/sightline") as client:
        assert (await client.get("/readyz")).status_code == 200
        assert is_error(await client.post("/detect", content=b"1"), 401, "unauthorized")
        answer = await client.post("/detect", content=b"1", headers=keys.add("dock", "detect"))
        assert answer.status_code == 200


async def test_a_changed_file_holds_without_a_restart(keyed: httpx.AsyncClient, keys: Keys) -> None:
    first = keys.add("dock", "detect")
    assert (await keyed.post("/detect", content=b"1", headers=first)).status_code == 200
    second = keys.add("dock", "detect")
    assert (await keyed.post("/detect", content=b"1", headers=second)).status_code == 200
    assert (await keyed.post("/detect", content=b"1", headers=first)).status_code == 200
    keys.clear()
    for header in (first, second):
        assert is_error(await keyed.post("/detect", content=b"1", headers=header), 401, "unauthorized")


async def test_a_changed_file_holds_while_every_thread_of_the_loops_own_is_busy(
    keyed: httpx.AsyncClient, keys: Keys
) -> None:
    header = keys.add("dock", "detect")
    assert (await keyed.post("/detect", content=b"1", headers=header)).status_code == 200
    go_on = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(go_on.wait)) for _ in range(100)]
    await asyncio.sleep(0)  # they begin
    try:
        async with asyncio.timeout(10):
            keys.clear()
            assert is_error(await keyed.post("/detect", content=b"1", headers=header), 401, "unauthorized")
    finally:
        go_on.set()
        await asyncio.gather(*busy)


async def test_the_file_is_looked_at_no_more_often_than_once_a_while(
    keyed: httpx.AsyncClient, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    monkeypatch.setattr(KeyFile, "refresh", lambda self: looks.append(self) is not None)
    monkeypatch.setattr(access, "_LOOK_PERIOD_S", 3600.0)
    await asyncio.gather(*(keyed.post("/detect", content=b"1", headers=keys.add("dock", "detect")) for _ in range(20)))
    assert len(looks) == 1


async def test_while_the_file_is_broken_the_old_keys_stay_and_it_is_told(
    keyed: httpx.AsyncClient, keys: Keys, pipeline: FakePipeline, caplog: pytest.LogCaptureFixture
) -> None:
    header = keys.add("dock", "detect")
    for _ in range(2):
        assert (await keyed.post("/detect", content=b"1", headers=header)).status_code == 200
    caplog.clear()
    keys.path.write_text(f"- {header['Authorization']}")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert (await keyed.post("/detect", content=b"1", headers=header)).status_code == 200
        assert pipeline.unreadable == 3
        assert [record.levelname for record in caplog.records if "keys' file" in record.message] == ["ERROR"]
        keys.save()
        assert (await keyed.post("/detect", content=b"1", headers=header)).status_code == 200
    assert pipeline.unreadable == 3
    assert "sl_" not in caplog.text


async def test_without_the_file_it_does_not_start(pipeline: FakePipeline, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        build_api(pipeline, FakeStreams(), parse_args({"access": {"keys_file": str(tmp_path / "nowhere.yaml")}}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "sightline.example", "", None])
async def test_what_other_machines_can_reach_does_not_start_without_keys(host: str | None) -> None:
    with pytest.raises(ConfigError, match=r"access\.keys_file"):
        require_keys(parse_args({}).access, host)
    require_keys(parse_args({"access": {"keys_file": "keys.yaml"}}).access, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
async def test_what_only_this_machine_can_reach_starts_without_keys(host: str) -> None:
    require_keys(parse_args({}).access, host)


LOCAL = ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1", "127.0.0.1:8000", "127.1.2.3:80", "[::1]", "[::1]:80"]
FOREIGN = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.7:8000"]
FOREIGN += ["0.0.0.0:8000", "", "[::1", "evil.example#@localhost"]


@pytest.mark.parametrize(("host", "status_code"), [*((h, 200) for h in LOCAL), *((h, 403) for h in FOREIGN)])
async def test_without_keys_a_name_that_a_web_page_made_point_here_is_refused(
    unkeyed: httpx.AsyncClient, host: str, status_code: int
) -> None:
    for path in ("/streams", "/health"):
        answer = await unkeyed.get(path, headers={"Host": host})
        assert answer.status_code == status_code
        assert answer.is_success or is_error(answer, 403, "forbidden")


@pytest.mark.parametrize(
    ("origin", "status_code"),
    [
        ("http://localhost:3000", 200),
        ("http://127.0.0.1", 200),
        ("http://[::1]:80", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
    ],
)
async def test_without_keys_a_web_page_elsewhere_can_change_nothing(
    unkeyed: httpx.AsyncClient, origin: str, status_code: int
) -> None:
    assert (await unkeyed.post("/detect", content=b"1", headers={"Origin": origin})).status_code == status_code
    assert (await unkeyed.post("/streams", json=STREAM, headers={"Origin": origin})).is_success == (status_code == 200)


@pytest.mark.parametrize(
    ("site", "status_code"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403), ("", 403)]
)
async def test_without_keys_a_web_page_elsewhere_can_show_nothing(
    unkeyed: httpx.AsyncClient, site: str, status_code: int
) -> None:
    """A GET without CORS, as for an ``<img>``, has no ``Origin``."""
    for path in ("/streams", "/health", "/docs"):
        assert (await unkeyed.get(path, headers={"Sec-Fetch-Site": site})).status_code == status_code


async def test_every_answer_is_kept_from_pages_elsewhere_and_from_guesses(
    unkeyed: httpx.AsyncClient, pipeline: FakePipeline
) -> None:
    answers = [await unkeyed.get(path) for path in ("/health", "/docs", "/nothing", "/streams", "/streams/none")]
    answers += [await unkeyed.get("/health", headers={"Host": "evil.example"}), await unkeyed.delete("/health")]
    answers += [await unkeyed.post("/detect", content=picture) for picture in (b"1", b"slow")]
    pipeline.failure = RuntimeError("a bug")
    answers += [await unkeyed.post("/detect", content=b"1"), await unkeyed.get("/readyz")]
    assert {answer.status_code for answer in answers} == {200, 403, 404, 405, 500, 504}
    for answer in answers:
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_with_keys_any_name_and_any_web_page_may(keyed: httpx.AsyncClient, keys: Keys) -> None:
    header = keys.add("dock", "detect") | {"Host": "10.0.0.7:8000", "Origin": "https://sightline.example"}
    header |= {"Sec-Fetch-Site": "cross-site"}
    assert (await keyed.post("/detect", content=b"1", headers=header)).status_code == 200


async def test_a_keys_name_is_the_tenant(
    keyed: httpx.AsyncClient, unkeyed: httpx.AsyncClient, keys: Keys, pipeline: FakePipeline
) -> None:
    for name in ("dock", "yard", "dock"):
        await keyed.post("/detect", content=b"1", headers=keys.add(name, "detect"))
    await unkeyed.post("/detect", content=b"1")
    assert pipeline.tenants == ["dock", "yard", "dock", ""]


async def test_openapi_says_which_key_each_route_needs_and_how_it_is_refused(keyed: httpx.AsyncClient) -> None:
    described = (await keyed.get("/openapi.json")).json()
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert described["paths"]["/detect"]["post"]["security"] == [{"key": ["detect"]}]
    assert described["paths"]["/streams/{stream_id}"]["put"]["security"] == [{"key": ["streams"]}]
    assert {"400", "401", "403", "429"} <= set(described["paths"]["/streams"]["get"]["responses"])
    assert "security" not in described["paths"]["/readyz"]["get"]


# How much


async def statuses(client: httpx.AsyncClient, header: dict[str, str], count: int) -> list[int]:
    return [(await client.post("/detect", content=b"1", headers=header)).status_code for _ in range(count)]


async def test_a_second_has_room_for_so_many_requests_and_the_next_one_is_told_when(
    keyed: httpx.AsyncClient, keys: Keys, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    fast, slow = keys.add("fast", "detect", requests_per_s=4), keys.add("slow", "detect", requests_per_s=0.1)
    assert await statuses(keyed, fast, 5) == [200, 200, 200, 200, 429]
    assert await statuses(keyed, slow, 2) == [200, 429]
    refused = await keyed.post("/detect", content=b"1", headers=slow)
    assert is_error(refused, 429, "rate_limited")
    assert refused.headers["retry-after"] == "10"
    now_s += 1
    assert await statuses(keyed, fast, 5) == [200, 200, 200, 200, 429]
    assert await statuses(keyed, slow, 1) == [429]
    now_s += 9
    assert await statuses(keyed, slow, 2) == [200, 429]
    assert pipeline.refusals == ["rate_limited"] * 6
    assert pipeline.requests.count(("slow", "rate_limited")) == 4


async def test_keys_of_one_name_share_its_limits_and_others_do_not(keyed: httpx.AsyncClient, keys: Keys) -> None:
    old, new = (keys.add("dock", "detect", requests_per_s=0.01) for _ in range(2))
    other = keys.add("yard", "detect", requests_per_s=0.01)
    assert [await statuses(keyed, header, 1) for header in (old, new, other)] == [[200], [429], [200]]


async def test_a_changed_file_changes_the_limits_and_forgets_no_others(keyed: httpx.AsyncClient, keys: Keys) -> None:
    dock = keys.add("dock", "detect", requests_per_s=0.01)
    assert await statuses(keyed, dock, 2) == [200, 429]
    keys.add("yard", "detect")
    assert await statuses(keyed, dock, 1) == [429]
    keys._entries[0]["requests_per_s"] = 0
    keys.save()
    assert await statuses(keyed, dock, 9) == [200] * 9


async def test_a_key_without_limits_of_its_own_has_the_settings(pipeline: FakePipeline, keys: Keys) -> None:
    api = build(pipeline, keys, access={"requests_per_s": 0.01})
    async with client_of(api) as client:
        assert await statuses(client, keys.add("dock", "detect"), 2) == [200, 429]
        assert await statuses(client, keys.add("yard", "detect", requests_per_s=0), 3) == [200, 200, 200]
    async with client_of(build(pipeline, None, access={"requests_per_s": 0.01})) as client:
        assert await statuses(client, {}, 2) == [200, 429]
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize(("is_keyed", "status_code"), [(True, 429), (False, 200)])
async def test_a_key_without_limits_has_32_requests_under_way_and_this_machine_as_many_as_it_likes(
    pipeline: FakePipeline, keys: Keys, is_keyed: bool, status_code: int
) -> None:
    header = keys.add("dock", "detect")
    async with client_of(build(pipeline, keys if is_keyed else None, limits={"deadline_s": 60})) as client:
        held = [asyncio.create_task(client.post("/detect", content=b"slow", headers=header)) for _ in range(32)]
        await until(lambda: len(pipeline.tenants) == 32)
        assert await statuses(client, header, 1) == [status_code]
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert await statuses(client, header, 1) == [200]


@pytest.mark.parametrize("end", ["answered", "client gone", "bug", "deadline"])
async def test_a_turn_ends_with_its_request_however_that_ends(pipeline: FakePipeline, keys: Keys, end: str) -> None:
    header = keys.add("dock", "detect", concurrency=1)
    picture = {"answered": b"1", "client gone": b"slow", "bug": b"1", "deadline": b"slow"}[end]
    async with client_of(build(pipeline, keys, limits={"deadline_s": 60 if end == "client gone" else 0.2})) as client:
        for _ in range(3):
            pipeline.failure = RuntimeError("a bug") if end == "bug" else None
            asked = len(pipeline.tenants)
            first = asyncio.create_task(client.post("/detect", content=picture, headers=header))
            await until(lambda asked=asked: len(pipeline.tenants) > asked)
            if end == "client gone":
                assert is_error(await client.post("/detect", content=b"1", headers=header), 429, "rate_limited")
                first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        pipeline.failure = None
        assert await statuses(client, header, 1) == [200]


async def test_who_holds_every_place_is_not_waited_for(pipeline: FakePipeline, keys: Keys) -> None:
    header = keys.add("dock", "detect")
    async with client_of(build(pipeline, keys, limits={"max_requests": 8, "deadline_s": 60})) as client:
        held = [asyncio.create_task(client.post("/detect", content=b"slow", headers=header)) for _ in range(8)]
        await until(lambda: len(pipeline.tenants) == 8)
        refused = await client.post("/detect", content=b"1", headers=header)
        assert is_error(refused, 503, "overloaded")
        assert "retry-after" in refused.headers
        assert (await client.get("/livez")).status_code == 200
        for request in held:
            request.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert await statuses(client, header, 1) == [200]


@contextmanager
def served_with(keys: Keys, **fields: Any) -> Iterator[StreamServer]:
    """A real server, which knows when a client has gone, and a stream. Its client has the key."""
    header = keys.add("dock", "streams", **fields)
    with serve_streams({"access": {"keys_file": str(keys.path)}}) as served:
        served.http.headers.update(header)
        served.http.post("/streams", json=STREAM).raise_for_status()
        yield served


@pytest.mark.parametrize("path", ["events", "preview.mjpeg"])
def test_a_follower_is_under_way_until_it_has_gone(keys: Keys, path: str) -> None:
    with served_with(keys, concurrency=1) as served:
        for _ in range(3):
            status_code = 429
            while status_code == 429:  # until the server has noticed that the one before has gone
                with served.http.stream("GET", f"/streams/lot/{path}") as response:
                    status_code = response.status_code
                    if status_code == 200:
                        assert is_error(served.http.get("/streams"), 429, "rate_limited")
            assert status_code == 200


def test_a_followers_turn_ends_with_its_stream(keys: Keys) -> None:
    with served_with(keys, concurrency=2) as served:
        with served.http.stream("GET", "/streams/lot/events") as response:
            assert served.http.delete("/streams/lot").status_code == 204
            assert list(response.iter_lines())
        served.http.post("/streams", json=STREAM).raise_for_status()
        with (
            served.http.stream("GET", "/streams/lot/events") as follower,
            connect_to(served) as socket,
        ):
            assert follower.status_code == 200
            assert is_error(served.http.get("/streams"), 429, "rate_limited")
            assert socket.response.status_code == 101


def revoke(keys: Keys, how: str) -> None:
    if how == "taken out":
        keys._entries = [entry for entry in keys._entries if entry["name"] != "dock"]
    else:
        entry = next(entry for entry in keys._entries if entry["name"] == "dock")
        entry |= {"expires": "2020-01-01"} if how == "expired" else {"scopes": ["detect"]}
    keys.save()


@pytest.mark.parametrize("how", ["taken out", "expired", "of another scope"])
@pytest.mark.parametrize("path", ["events", "preview.mjpeg"])
def test_a_followers_answer_ends_when_its_key_is_no_longer_good(keys: Keys, path: str, how: str) -> None:
    with served_with(keys) as served:
        other = keys.add("yard", "streams")
        with (
            served.http.stream("GET", f"/streams/lot/{path}") as follower,
            served.http.stream("GET", "/streams/lot/events", headers=other) as unhurt,
        ):
            assert (follower.status_code, unhurt.status_code) == (200, 200)
            revoke(keys, how)
            assert len(list(islice(follower.iter_raw(), 4))) < 4  # it ends, and as an answer does that is complete
            served.happen()
            assert any("event: state" in text for text in unhurt.iter_text())


@pytest.mark.parametrize("how", ["taken out", "expired", "of another scope"])
def test_a_websocket_is_closed_when_its_key_is_no_longer_good(keys: Keys, how: str) -> None:
    with served_with(keys) as served, connect_to(served) as socket:
        served.happen()
        assert "state" in socket.recv(timeout=60)
        revoke(keys, how)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=60)
        assert closed.value.rcvd.code == 4401


def test_while_the_file_is_broken_followers_stay(keys: Keys) -> None:
    with served_with(keys) as served, connect_to(served) as socket:
        keys.path.write_text("broken: [")
        assert served.http.get("/streams").status_code == 200  # the file has been looked at
        served.happen()
        assert "state" in socket.recv(timeout=60)


async def test_what_is_under_way_counts_though_its_name_was_away_for_a_while(
    pipeline: FakePipeline, keys: Keys
) -> None:
    header = keys.add("dock", "detect", concurrency=1)
    entries = keys._entries
    async with client_of(build(pipeline, keys, limits={"deadline_s": 60})) as client:
        first = asyncio.create_task(client.post("/detect", content=b"slow", headers=header))
        await until(lambda: pipeline.tenants)
        keys.clear()
        assert is_error(await client.post("/detect", content=b"1", headers=header), 401, "unauthorized")
        keys._entries = entries
        keys.save()
        assert is_error(await client.post("/detect", content=b"1", headers=header), 429, "rate_limited")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await statuses(client, header, 1) == [200]


def connect_to(served: StreamServer, **options: Any) -> Any:
    header = {"Authorization": served.http.headers.get("Authorization", "")}
    url = f"ws://127.0.0.1:{served.port}/streams/lot/events"
    return connect(url, proxy=None, **{"additional_headers": header} | options)


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


def test_without_keys_a_web_page_elsewhere_hears_nothing_by_websocket() -> None:
    with serve_streams() as served:
        served.http.post("/streams", json=STREAM).raise_for_status()
        with connect_to(served, origin="http://localhost:3000"):
            pass
        with pytest.raises(InvalidStatus) as refused:
            connect_to(served, origin="https://evil.example")
        assert refused.value.response.status_code == 403


async def test_a_server_that_cannot_refuse_a_websocket_by_status_closes_it(pipeline: FakePipeline, keys: Keys) -> None:
    sent = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    connection = {"type": "websocket", "path": "/streams/lot/events", "headers": [], "query_string": b""}
    await build(pipeline, keys)(connection, send, send)
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

    assert is_error(await unkeyed.request(method, path, content=endless()), 413, "too_large")
    assert sent <= 2**20 + 2**16


OPEN = ["/health", "/livez", "/readyz", "/docs", "/openapi.json"]
BODILESS = [("GET", path) for path in [*OPEN, "/streams", "/streams/lot", "/detect"]]
BODILESS += [("HEAD", "/health"), ("HEAD", "/readyz"), ("DELETE", "/streams/lot")]


async def unread() -> AsyncIterator[bytes]:
    raise AssertionError("the body was read")
    yield b""


@pytest.mark.parametrize(("method", "path"), BODILESS)
async def test_a_body_where_none_belongs_is_refused_and_not_waited_for(
    unkeyed: httpx.AsyncClient, method: str, path: str
) -> None:
    """Else whoever needs no key holds a request open by a body that never comes."""
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
    pipeline: FakePipeline, method: str, path: str, status_code: int
) -> None:
    sent = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", b"0" if method != "POST" else b"5")]
    connection = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
    await build(pipeline, None)(connection, receive, send)
    assert sent[0]["status"] == status_code
