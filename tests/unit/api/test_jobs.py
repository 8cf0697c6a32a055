"""Test the routes of jobs with a fake JobSupervisor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.api import job_submission
from serve_app.errors import Conflict, Overloaded, UrlsDisabled
from serve_app.schemas.jobs import MAX_URLS, FilesSource, UrlEntry, UrlsSource
from tests.support.api import build, client_of, is_error
from tests.support.fake_jobs import FakeJobs, failure_of, result_of

pytestmark = pytest.mark.anyio

JOB = {"id": "night", "source": {"type": "files", "path": "night"}}


@pytest.fixture
def client(jobs_client: httpx.AsyncClient) -> httpx.AsyncClient:
    return jobs_client


# Creating jobs


async def test_a_job_is_accepted_with_its_place_and_its_status(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    response = await client.post("/jobs", json=JOB)
    assert response.status_code == 202
    assert (response.headers["Location"], response.headers["Retry-After"]) == ("/jobs/night", "1")
    assert response.json() == (await client.get("/jobs/night")).json()
    assert jobs.specs["night"].source == FilesSource(type="files", path="night")
    assert is_error(await client.post("/jobs", json=JOB), 409, "conflict")
    unnamed = await client.post("/jobs", content=json.dumps({"source": JOB["source"]}))  # as curl -d sends it
    assert unnamed.json()["job_id"].startswith("job-")


async def test_a_job_under_an_id_is_accepted_once(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    first = await client.put("/jobs/night", json={"source": JOB["source"]})
    assert (first.status_code, first.headers["Location"]) == (202, "/jobs/night")
    same = await client.put("/jobs/night", json=JOB)
    assert (same.status_code, same.json(), "Retry-After" in same.headers) == (200, first.json(), False)
    assert is_error(await client.put("/jobs/night", json=JOB | {"weight": 2}), 409, "conflict")
    assert is_error(await client.put("/jobs/noon", json=JOB), 422, "invalid_parameter")
    assert is_error(await client.put("/jobs/a b", json={"source": JOB["source"]}), 422, "invalid_parameter")
    assert list(jobs.specs) == ["night"]


@pytest.mark.parametrize(
    ("body", "status_code", "code", "words"),
    [
        (b"", 422, "invalid_parameter", "the body is not a JSON object"),
        (b"hello", 422, "invalid_parameter", "the body is not a JSON object"),
        (b"{", 400, "malformed", "the body is not valid JSON"),
        (b"{}", 422, "invalid_parameter", "source: Field required"),
        (b'{"source": {"type": "tape"}}', 422, "invalid_parameter", "source: "),
        (b'{"source": {"type": "files"}}', 422, "invalid_parameter", "source.files.path: "),
        (b'{"source": {"type": "upload"}, "typo": 1}', 422, "invalid_parameter", "typo: there is no such field"),
    ],
)
async def test_an_invalid_job_is_refused_with_the_name_of_the_field(
    client: httpx.AsyncClient, jobs: FakeJobs, body: bytes, status_code: int, code: str, words: str
) -> None:
    response = await client.post("/jobs", content=body)
    assert is_error(response, status_code, code)
    assert response.json()["detail"].startswith(words)
    assert jobs.specs == {}


async def test_a_refusal_does_not_quote_a_secret(client: httpx.AsyncClient) -> None:
    sink = {"type": "webhook", "url": "https://hook", "secret": "secret" * 99}
    refused = await client.post("/jobs", json=JOB | {"sinks": [sink]})
    assert is_error(refused, 422, "invalid_parameter")
    assert "secretsecret" not in refused.text


@pytest.mark.parametrize(
    ("failure", "status_code"),
    [(Overloaded("jobs.max_jobs: full", limit="jobs.max_jobs"), 503), (UrlsDisabled("disabled"), 403)],
)
async def test_a_refusal_of_the_supervisor_has_its_own_status(
    client: httpx.AsyncClient, jobs: FakeJobs, failure: Any, status_code: int
) -> None:
    jobs.failure = failure
    response = await client.post("/jobs", json=JOB)
    assert is_error(response, status_code, failure.code, failure.limit)


async def test_a_list_of_urls_may_be_larger_than_other_json(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    urls: list[UrlEntry | str] = [f"https://example.com/{number:0900}" for number in range(MAX_URLS)]
    response = await client.post("/jobs", json={"id": "urls", "source": {"type": "urls", "urls": urls}})
    assert response.status_code == 202
    assert jobs.specs["urls"].source == UrlsSource(type="urls", urls=urls)
    body = b'{"x": "' + b" " * job_submission.MAX_SPEC_BYTES
    assert is_error(await client.post("/jobs", content=body), 413, "too_large", "json_body")


async def test_a_body_that_does_not_arrive_in_time_is_refused() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"--x\r\n"
        await asyncio.sleep(60)

    async with client_of(build(limits={"deadline_s": 0.1})) as client:
        for header in ("application/json", "multipart/form-data; boundary=x"):
            response = await client.post("/jobs", content=slow(), headers={"Content-Type": header})
            assert is_error(response, 504, "deadline_exceeded")


# Preferences


@pytest.mark.parametrize("header", ["wait=20", "WAIT=20; x=1, wait=1", 'respond-async, wait="20"', "wait=99999"])
async def test_a_client_that_waits_gets_the_end_of_a_short_job(
    client: httpx.AsyncClient, jobs: FakeJobs, header: str
) -> None:
    request = asyncio.create_task(client.post("/jobs", json=JOB, headers={"Prefer": header}))
    while "night" not in jobs.specs:
        await asyncio.sleep(0)
    jobs.set_state("night", "running")
    await asyncio.sleep(0.05)
    jobs.set_state("night", "completed")
    response = await request
    assert (response.status_code, response.json()["state"]) == (200, "completed")
    assert response.headers["Preference-Applied"] == ("wait=30" if "99999" in header else "wait=20")


async def test_a_client_that_waits_too_short_gets_the_accepted_job(client: httpx.AsyncClient) -> None:
    response = await client.post("/jobs", json=JOB, headers={"Prefer": "wait=1"})
    assert (response.status_code, response.json()["state"]) == (202, "queued")


@pytest.mark.parametrize("header", ["", "wait", "wait=-1", "wait=1.5", "wait=²", "waiting=3", "wait=" + "9" * 5000])
async def test_an_invalid_preference_is_ignored(client: httpx.AsyncClient, header: str) -> None:
    response = await client.post("/jobs", json=JOB, headers={b"Prefer": header.encode()})
    assert (response.status_code, "Preference-Applied" in response.headers) == (202, False)


# Reading and controlling jobs


async def test_jobs_are_listed_the_newest_first_in_pages(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    for number in range(3):
        await client.post("/jobs", json=JOB | {"id": f"job{number}", "tags": {"site": "dock" if number else "yard"}})
    jobs.set_state("job1", "running")

    async def ids(query: str) -> tuple[list[str], str | None]:
        body = (await client.get(f"/jobs{query}")).json()
        return [job["job_id"] for job in body["jobs"]], body["next"]

    assert await ids("") == (["job2", "job1", "job0"], None)
    assert await ids("?limit=2") == (["job2", "job1"], "job1")
    assert await ids("?limit=2&after=job1") == (["job0"], None)
    assert await ids("?state=running") == (["job1"], None)
    assert await ids("?tag=site%3Ddock") == (["job2", "job1"], None)
    for wrong in ("limit=0", "limit=101", "state=typo"):
        assert is_error(await client.get(f"/jobs?{wrong}"), 422, "invalid_parameter")


async def test_a_status_that_has_not_changed_is_not_sent_again(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    await client.post("/jobs", json=JOB)
    tag = (await client.get("/jobs/night")).headers["ETag"]
    for header in (tag, f'"other", W/{tag}', "*"):
        unchanged = await client.get("/jobs/night", headers={"If-None-Match": header})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["ETag"]) == (304, b"", tag)
    jobs.set_state("night", "running")
    changed = await client.get("/jobs/night", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["state"]) == (200, "running")
    assert changed.headers["ETag"] != tag


async def test_items_come_in_pages_and_by_state(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    await client.post("/jobs", json=JOB)
    jobs.done["night"] = [result_of("night", 0), failure_of("night", 1), result_of("night", 2)]

    async def numbers(query: str) -> tuple[list[int], int | None]:
        body = (await client.get(f"/jobs/night/items{query}")).json()
        return [item["item"] for item in body["items"]], body["next"]

    assert await numbers("") == ([0, 1, 2], None)
    assert await numbers("?limit=2") == ([0, 1], 1)
    assert await numbers("?after=1") == ([2], None)
    assert await numbers("?state=failed") == ([1], None)
    failed = (await client.get("/jobs/night/items?state=failed")).json()["items"][0]
    assert (failed["code"], failed["detail"]) == ("undecodable", "the image is corrupt")
    for wrong in ("limit=0", "limit=1001", "state=typo", "after=-2"):
        assert is_error(await client.get(f"/jobs/night/items?{wrong}"), 422, "invalid_parameter")


@pytest.mark.parametrize(("action", "state"), [("cancel", "cancelled"), ("pause", "paused"), ("resume", "running")])
async def test_a_job_is_controlled(client: httpx.AsyncClient, action: str, state: str) -> None:
    await client.post("/jobs", json=JOB)
    for _ in range(2):
        response = await client.post(f"/jobs/night/{action}")
        assert (response.status_code, response.json()["state"]) == (202, state)


@pytest.mark.parametrize("action", ["pause", "resume"])
async def test_a_job_that_has_ended_is_neither_paused_nor_resumed(
    client: httpx.AsyncClient, jobs: FakeJobs, action: str
) -> None:
    await client.post("/jobs", json=JOB)
    jobs.set_state("night", "completed")
    assert is_error(await client.post(f"/jobs/night/{action}"), 409, "conflict")
    assert jobs.states["night"] == "completed"


async def test_failed_items_are_retried(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    await client.post("/jobs", json=JOB)
    for body in ({}, {"items": "failed"}, {"items": ["missing"]}):
        assert (await client.post("/jobs/night/retry", json=body)).status_code == 202
    assert [retry.items for retry in jobs.retried] == ["failed", "failed", ["missing"]]
    assert is_error(await client.post("/jobs/night/retry", json={"items": "typo"}), 422, "invalid_parameter")


async def test_a_deleted_job_is_gone(client: httpx.AsyncClient) -> None:
    await client.post("/jobs", json=JOB)
    assert (await client.delete("/jobs/night")).status_code == 204
    assert is_error(await client.get("/jobs/night"), 404, "not_found")


async def test_the_image_of_an_item_has_boxes_unless_the_client_wants_none(
    client: httpx.AsyncClient, jobs: FakeJobs
) -> None:
    await client.post("/jobs", json=JOB)
    jobs.done["night"] = [result_of("night", 0)]
    drawn, plain = [await client.get(f"/jobs/night/items/0/image{query}") for query in ("", "?boxes=false")]
    assert (drawn.content, plain.content, drawn.headers["Content-Type"]) == (b"drawn", b"plain", "image/jpeg")
    assert is_error(await client.get("/jobs/night/items/1/image"), 404, "not_found")


# Images that become jobs


async def test_detect_with_respond_async_starts_a_job(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    header = {"Prefer": "respond-async"}
    query = "?confidence=0.3&classes=cat,dog&classes=7&max_detections=9"
    response = await client.post(f"/detect{query}", content=b"\x89PNG1", headers=header)
    job_id = response.json()["job_id"]
    assert (response.status_code, response.headers["Location"]) == (202, f"/jobs/{job_id}")
    assert response.headers["Preference-Applied"] == "respond-async"
    detect = jobs.specs[job_id].detect
    assert (detect.confidence, detect.classes, detect.max_detections) == (0.3, ["cat", "dog", "7"], 9)
    assert jobs.uploads[job_id] == {"0000.png": b"\x89PNG1"}
    several = await client.post("/detect", files=[("file", ("a", b"\xff\xd81")), ("file", ("b", b"2"))], headers=header)
    assert list(jobs.uploads[several.json()["job_id"]]) == ["0000.jpg", "0001.jpg"]


async def test_detect_with_respond_async_leaves_no_job_if_it_is_refused(
    client: httpx.AsyncClient, jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(*_: object) -> None:
        raise Conflict("the job has started already")

    monkeypatch.setattr(jobs, "start", start)
    header = {"Prefer": "respond-async"}
    assert is_error(await client.post("/detect", content=b"1", headers=header), 409, "conflict")
    assert is_error(await client.post("/detect?model=typo", content=b"1", headers=header), 422, "invalid_parameter")
    assert jobs.specs == {}
