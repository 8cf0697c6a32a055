"""Test the routes that take the files of jobs, with a fake JobSupervisor."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx
import pytest

from serve_app.api import job_submission
from serve_app.errors import NoSpace
from tests.support.api import build, client_of, is_error, until
from tests.support.fake_jobs import FakeJobs

pytestmark = pytest.mark.anyio

UPLOAD = {"id": "up", "source": {"type": "upload"}}


@pytest.fixture
def client(jobs_client: httpx.AsyncClient) -> httpx.AsyncClient:
    return jobs_client


async def test_a_form_with_files_is_a_job_that_has_started(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    large = b"\r\n--" * 600_000
    files = [("file", ("a.jpg", large)), ("file", ("b ä.jpg", b"")), ("file", ("", b""))]
    response = await client.post("/jobs", data={"job": '{"id": "up", "weight": 2}'}, files=files)
    assert (response.status_code, response.json()["state"]) == (202, "completed")
    assert (jobs.specs["up"].source.type, jobs.specs["up"].weight) == ("upload", 2)
    assert jobs.uploads["up"] == {"a.jpg": large, "b ä.jpg": b""}
    assert max(jobs.pieces) == 2**20


async def test_a_form_needs_no_part_for_the_job(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    response = await client.post("/jobs", files=[("file", ("a.jpg", b"1"))])
    assert (response.status_code, response.json()["state"]) == (202, "completed")
    assert list(jobs.uploads[response.json()["job_id"]]) == ["a.jpg"]


async def test_a_repeated_form_under_an_id_uploads_only_what_the_first_one_did_not_start(
    client: httpx.AsyncClient, jobs: FakeJobs
) -> None:
    await client.put("/jobs/up", json={"source": {"type": "upload"}})  # as if the first request had been cut
    for _ in range(2):
        response = await client.put("/jobs/up", files=[("file", ("a.jpg", b"1"))])
        assert (response.status_code, response.json()["state"]) == (200, "completed")
    assert (jobs.uploads["up"], len(jobs.pieces)) == ({"a.jpg": b"1"}, 1)


async def test_a_form_that_stalls_does_not_delete_the_job_that_its_repetition_has_started(jobs: FakeJobs) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield FILE.encode()
        await asyncio.sleep(60)

    header = {"Content-Type": "multipart/form-data; boundary=x"}
    async with client_of(build(jobs=jobs, limits={"deadline_s": 0.5})) as client:
        first = asyncio.create_task(client.put("/jobs/up", content=stalled(), headers=header))
        await until(lambda: "up" in jobs.specs)
        repeated = await client.put("/jobs/up", files=[("file", ("a.jpg", b"1"))])
        assert (repeated.status_code, repeated.json()["state"]) == (200, "completed")
        assert is_error(await first, 504, "deadline_exceeded")
        assert (await client.get("/jobs/up")).json()["state"] == "completed"


async def test_a_refused_form_under_an_id_can_be_repeated(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    refused = await client.put("/jobs/up", files=[("file", ("a.jpg", b"1"))] * 2)
    assert is_error(refused, 422, "invalid_parameter")
    assert (list(jobs.specs), jobs.states["up"]) == (["up"], "collecting")
    assert (await client.put("/jobs/up", files=[("file", ("a.jpg", b"2"))])).json()["state"] == "completed"
    assert jobs.uploads["up"] == {"a.jpg": b"2"}


FORM = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
FILE = FORM.format("file", '; filename="a.jpg"', "1")


@pytest.mark.parametrize(
    ("form", "status_code", "code"),
    [
        ("--x--\r\n", 400, "malformed"),
        (FILE, 400, "malformed"),  # no closing boundary
        ("hello", 400, "malformed"),
        (FORM.format("job", "", "{") + "--x--", 400, "malformed"),
        (FORM.format("job", "", "[" * 100_000) + "--x--", 400, "malformed"),
        (FORM.format("job", "", "[]") + "--x--", 422, "invalid_parameter"),
        (FORM.format("job", "", '{"typo": 1}') + "--x--", 422, "invalid_parameter"),
        (
            FORM.format("job", "", '{"source": {"type": "files", "path": "a"}}') + FILE + "--x--",
            422,
            "invalid_parameter",
        ),
        (FILE + FORM.format("job", "", "{}") + "--x--", 422, "invalid_parameter"),
        (FILE + FILE + "--x--", 422, "invalid_parameter"),
        (FILE + FORM.format("file", "", "1") + "--x--", 422, "invalid_parameter"),
        (FORM.format("image", '; filename="a.jpg"', "1") + "--x--", 422, "invalid_parameter"),
        (FILE.replace("\r\n\r\n", "\r\nContent-Transfer-Encoding: base64\r\n\r\n") + "--x--", 400, "malformed"),
        (FORM.format("job", "", " " * (2**20 + 1)) + "--x--", 413, "too_large"),
    ],
)
async def test_an_invalid_form_is_refused_and_leaves_no_job(
    client: httpx.AsyncClient, jobs: FakeJobs, form: str, status_code: int, code: str
) -> None:
    header = {"Content-Type": "multipart/form-data; boundary=x"}
    response = await client.post("/jobs", content=form.encode(), headers=header)
    assert is_error(response, status_code, code, "json_body" if status_code == 413 else "")
    assert (jobs.specs, dict(jobs.uploads)) == ({}, {})


async def test_a_form_has_a_boundary_and_a_limited_number_of_files(
    client: httpx.AsyncClient, jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = {"Content-Type": "multipart/form-data"}
    assert is_error(await client.post("/jobs", content=FILE.encode(), headers=header), 400, "malformed")
    monkeypatch.setattr(job_submission, "MAX_FILES", 2)
    files = [("file", (f"{number}.jpg", b"1")) for number in range(3)]
    assert is_error(await client.post("/jobs", files=files), 413, "too_large", "job_files")
    assert jobs.specs == {}


async def test_files_are_uploaded_before_the_start(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    assert (await client.post("/jobs", json=UPLOAD)).json()["state"] == "collecting"
    data = bytes(range(256)) * 10_000

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    assert (await client.put("/jobs/up/files/a%20b.jpg", content=pieces())).status_code == 204
    assert (await client.put("/jobs/up/files/empty", content=b"")).status_code == 204
    assert jobs.uploads["up"] == {"a b.jpg": data, "empty": b""}
    assert jobs.pieces == [2**20, 2**20, len(data) - 2**21, 0]
    started = await client.post("/jobs/up/start")
    assert (started.status_code, started.json()["state"]) == (202, "completed")
    assert is_error(await client.put("/jobs/up/files/late", content=b"1"), 409, "conflict")
    assert is_error(await client.post("/jobs/up/start"), 409, "conflict")


async def test_a_compressed_file_is_stored_as_it_is_without_compression(
    client: httpx.AsyncClient, jobs: FakeJobs
) -> None:
    await client.post("/jobs", json=UPLOAD)
    header, body = {"Content-Encoding": "gzip"}, gzip.compress(b"1" * 3_000_000)
    assert (await client.put("/jobs/up/files/a", content=body, headers=header)).status_code == 204
    assert jobs.uploads["up"]["a"] == b"1" * 3_000_000
    assert is_error(await client.put("/jobs/up/files/b", content=body[:-9], headers=header), 400, "malformed")


async def test_a_full_disk_refuses_a_file_and_a_form_leaves_no_job(
    client: httpx.AsyncClient, jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.post("/jobs", json=UPLOAD)

    async def put_file(*_: object, last: bool) -> None:
        raise NoSpace("jobs.max_disk_gib: full", limit="jobs.max_disk_gib")

    monkeypatch.setattr(jobs, "put_file", put_file)
    refused = await client.put("/jobs/up/files/a", content=b"1")
    assert is_error(refused, 507, "no_space", "jobs.max_disk_gib")
    form = await client.post("/jobs", files=[("file", ("a.jpg", b"1"))])
    assert is_error(form, 507, "no_space", "jobs.max_disk_gib")
    assert list(jobs.specs) == ["up"]
