"""Test every route of a stream or a job with the keys of its owner, of another client and of an administrator.

The cases are made from the application's routes, so they include new routes.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message

from serve_app.api.access.permissions import RouteTable
from serve_app.schemas.jobs import JobSpec
from serve_app.schemas.streams import StreamSpec
from serve_app.streams.outputs.recordings import Recordings
from serve_app.types import Snapshot
from tests.support.api import STREAM, Keys, build, client_of, is_error
from tests.support.fake_jobs import FakeJobs, result_of
from tests.support.fakes import FakeStreams
from tests.support.principals import DOCK

pytestmark = pytest.mark.anyio

CLIP = "2026-01-01T00-00-00.000Z.mp4"
JOB = {"id": "night", "source": {"type": "files", "path": "night"}}
TABLE: RouteTable = vars(build())["route_table"]  # an attribute of our FastAPI subclass
OF_ONE = [route for route in TABLE.routes if re.search(r"\{(stream|job)_id\}", route.path)]
HTTP = sorted((method, route.path) for route in OF_ONE for method in route.methods)
WEBSOCKET = sorted(route.path for route in OF_ONE if not route.methods)
BODIES: dict[str, Any] = {
    "/streams/{stream_id}": {"source": STREAM["source"]},
    "/streams/{stream_id}/regions": {},
    "/streams/{stream_id}/owner": {"owner": "dock"},
    "/jobs/{job_id}": {"source": JOB["source"]},
    "/jobs/{job_id}/retry": {"items": "failed"},
    "/jobs/{job_id}/owner": {"owner": "dock"},
}
SCOPES = ("streams", "jobs")


class Server:
    """An API with three keys. The client ``dock`` owns the stream ``lot`` and the job ``night``."""

    def __init__(self, keys: Keys, folder: Path) -> None:
        self.streams, self.jobs = FakeStreams(), FakeJobs()
        scopes = {"dock": SCOPES, "yard": SCOPES, "admin": ("admin",)}
        self.headers = {name: keys.add(name, *scopes[name]) for name in scopes}
        self.recordings = Recordings(folder, 0)
        (folder / CLIP).write_bytes(b"clip")
        self.api = build(keys=keys, streams=self.streams, jobs=self.jobs)

    async def fill(self) -> None:
        vars(self.streams).update(vars(FakeStreams()))
        vars(self.jobs).update(vars(FakeJobs()))
        await self.streams.create(StreamSpec.model_validate(STREAM), DOCK)
        self.streams.shots = {"drawn": Snapshot(1, b"jpeg")}
        self.streams.recorded["lot"] = self.recordings
        await self.jobs.create(JobSpec.model_validate(JOB), DOCK)
        self.jobs.done["night"] = [result_of("night", 0)]


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Return one server for all tests, because building the API takes longer than a test."""
    return Server(Keys(tmp_path_factory.mktemp("keys") / "keys.yaml"), tmp_path_factory.mktemp("lot"))


@pytest.fixture
async def server(shared_server: Server) -> Server:
    await shared_server.fill()
    return shared_server


def filled(path: str, *, stream_id: str = "lot", job_id: str = "night") -> str:
    return path.format(stream_id=stream_id, job_id=job_id, item=0, name="a.jpg", file_name=CLIP)


async def ask(api: FastAPI, method: str, path: str, header: dict[str, str], body: Any = None) -> tuple[int, Any]:
    """Send a request, and return the status and the body of an error. Do not wait for the end of a success."""
    sent: asyncio.Queue[Message] = asyncio.Queue()
    content = b"" if body is None else json.dumps(body).encode()
    incoming = iter([{"type": "http.request", "body": content}])

    async def receive() -> Message:
        for message in incoming:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    headers = [(name.lower().encode(), value.encode()) for name, value in header.items()]
    headers += [(b"content-type", b"application/json")] if content else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "root_path": ""}
    task = asyncio.create_task(api(scope, receive, sent.put))
    try:
        async with asyncio.timeout(20):
            status_code = (await sent.get())["status"]
            if status_code < 400 or method == "HEAD":
                return status_code, None
            error = json.loads((await sent.get())["body"])
            return status_code, (error["code"], error["detail"])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(("method", "path"), HTTP)
async def test_a_foreign_id_answers_as_an_unknown_one(server: Server, method: str, path: str) -> None:
    yard = server.headers["yard"]
    body = BODIES.get(path) if method in {"POST", "PUT"} else None
    before = dict(server.streams.specs), dict(server.jobs.specs), dict(server.jobs.states), dict(server.jobs.uploads)
    foreign = await ask(server.api, method, filled(path), yard, body)
    assert (server.streams.specs, server.jobs.specs, server.jobs.states, server.jobs.uploads) == before
    if (method, path) == ("PUT", "/jobs/{job_id}"):  # creates a job, so the client must learn that the id is taken
        assert (foreign[0], foreign[1][0]) == (409, "conflict")
        return
    unknown = await ask(server.api, method, filled(path, stream_id="some", job_id="thing"), yard, body)
    if unknown[1] is not None:
        words = unknown[1][1].replace("'some'", "'lot'").replace("'thing'", "'night'")
        unknown = unknown[0], (unknown[1][0], words)
    assert foreign == unknown
    assert foreign[0] == (403 if path.endswith("/owner") else 404)


@pytest.mark.parametrize(("method", "path"), HTTP)
@pytest.mark.parametrize("name", ["dock", "admin"])
async def test_the_owner_and_an_administrator_reach_every_route(
    server: Server, method: str, path: str, name: str
) -> None:
    body = BODIES.get(path) if method in {"POST", "PUT"} else None
    status_code, error = await ask(server.api, method, filled(path), server.headers[name], body)
    if path.endswith("/owner") and name == "dock":
        assert (status_code, error[0]) == (403, "forbidden")
    else:
        assert status_code not in {401, 403, 404, 422, 500}


@pytest.mark.parametrize("path", WEBSOCKET)
@pytest.mark.parametrize(("name", "code"), [("yard", 4404), ("dock", None), ("admin", None)])
async def test_a_websocket_of_a_foreign_id_is_closed_as_that_of_an_unknown_one(
    server: Server, path: str, name: str, code: int | None
) -> None:
    sent: list[Message] = []
    events: list[Message] = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
    incoming = iter(events)

    async def receive() -> Message:
        return next(incoming)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": filled(path),
        "headers": [(b"authorization", server.headers[name]["Authorization"].encode())],
        "query_string": b"",
        "extensions": {"websocket.http.response": {}},
    }
    async with asyncio.timeout(20):
        await server.api(scope, receive, send)
    assert sent[0]["type"] == "websocket.accept"
    assert [message["code"] for message in sent[1:] if message["type"] == "websocket.close"] == ([code] if code else [])


async def test_lists_show_what_the_key_may_see(server: Server) -> None:
    server.streams.owners["lot"] = server.jobs.owners["night"] = None
    yard, admin = server.headers["yard"], server.headers["admin"]
    async with client_of(server.api) as client:
        for header, source in ((server.headers["dock"], "dock"), (yard, "yard")):
            assert (await client.post("/streams", json=STREAM | {"id": source}, headers=header)).json()[
                "owner"
            ] == source
            assert (await client.post("/jobs", json=JOB | {"id": source}, headers=header)).json()["owner"] == source
        for header, name, seen in ((yard, "yard", {"lot", "yard"}), (admin, "admin", {"lot", "dock", "yard"})):
            streams, jobs = [(await client.get(path, headers=header)).json() for path in ("/streams", "/jobs")]
            assert {stream["stream_id"] for stream in streams["streams"]} == seen
            assert {job["job_id"] for job in jobs["jobs"]} == seen - {"lot"} | {"night"}
            assert streams["owner"] == name


async def test_an_id_that_another_key_has_taken_is_a_conflict(server: Server) -> None:
    yard = server.headers["yard"]
    async with client_of(server.api) as client:
        for path, body in (("/streams", STREAM), ("/jobs", JOB)):
            assert is_error(await client.post(path, json=body, headers=yard), 409, "conflict")
        assert is_error(await client.put("/jobs/night", json=JOB, headers=yard), 409, "conflict")


async def test_a_new_key_of_the_same_name_keeps_what_the_old_one_made(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.yaml")
    server = Server(keys, tmp_path)
    await server.fill()
    keys.clear()
    header = keys.add("dock", *SCOPES)
    async with client_of(server.api) as client:
        assert is_error(await client.get("/jobs/night", headers=server.headers["dock"]), 401, "unauthorized")
        assert (await client.get("/streams/lot", headers=header)).status_code == 200
        assert (await client.get("/jobs/night", headers=header)).status_code == 200


async def test_what_has_no_owner_is_everyones_until_an_administrator_gives_it_one(server: Server) -> None:
    server.streams.owners["lot"] = server.jobs.owners["night"] = None
    yard, admin = server.headers["yard"], server.headers["admin"]
    async with client_of(server.api) as client:
        for path in ("/streams/lot", "/jobs/night"):
            assert (await client.get(path, headers=yard)).json()["owner"] is None
            given = await client.put(f"{path}/owner", json={"owner": "dock"}, headers=admin)
            assert (given.status_code, given.json()["owner"]) == (200, "dock")
            assert is_error(await client.get(path, headers=yard), 404, "not_found")
            again = await client.put(f"{path}/owner", json={"owner": "dock"}, headers=admin)
            assert again.status_code == 200
            other = await client.put(f"{path}/owner", json={"owner": "yard"}, headers=admin)
            assert is_error(other, 409, "conflict")
            for wrong in ({"owner": ""}, {"owner": "a b"}, {}, {"owner": "dock", "typo": 1}):
                refused = await client.put(f"{path}/owner", json=wrong, headers=admin)
                assert is_error(refused, 422, "invalid_parameter")


async def test_without_keys_nothing_has_an_owner_and_everything_is_seen() -> None:
    streams, jobs = FakeStreams(), FakeJobs()
    async with client_of(build(streams=streams, jobs=jobs)) as client:
        assert (await client.post("/streams", json=STREAM)).json()["owner"] is None
        assert (await client.post("/jobs", json=JOB)).json()["owner"] is None
        streams.owners["lot"] = jobs.owners["night"] = "dock"  # as made before the keys were removed
        assert (await client.get("/streams/lot")).json()["owner"] == "dock"
        assert (await client.get("/jobs/night")).json()["owner"] == "dock"
        assert (await client.get("/streams")).json()["owner"] is None


def test_the_cases_include_every_kind_of_route() -> None:
    assert {("GET", "/streams/{stream_id}/preview.mjpeg"), ("GET", "/jobs/{job_id}/items/{item}/image")} <= set(HTTP)
    assert WEBSOCKET == ["/jobs/{job_id}/events", "/streams/{stream_id}/events"]
