"""Test the files of a job's results, whole and in ranges."""

from __future__ import annotations

import csv
import hashlib
import json

import httpx
import pytest

from serve_app.api import job_results
from serve_app.errors import Unavailable
from serve_app.schemas.jobs import Format
from tests.support.api import is_error
from tests.support.fake_jobs import FakeJobs, failure_of, result_of

pytestmark = pytest.mark.anyio

DATA = bytes(range(256)) * 5000  # more than one piece
TAG = f'"{hashlib.sha256(DATA).hexdigest()}"'
URL = "/jobs/night/results"


@pytest.fixture
async def client(jobs_client: httpx.AsyncClient, jobs: FakeJobs) -> httpx.AsyncClient:
    """Return a client of a server with one job that has ended."""
    await jobs_client.post("/jobs", json={"id": "night", "source": {"type": "files", "path": "night"}})
    jobs.set_state("night", "completed")
    jobs.files = {("night", kind): DATA for kind in job_results.MEDIA_TYPES}
    return jobs_client


@pytest.mark.parametrize("kind", job_results.MEDIA_TYPES)
async def test_the_results_of_a_job_that_has_ended_are_a_file(client: httpx.AsyncClient, kind: Format) -> None:
    response = await client.get(URL, params={"format": kind})
    assert (response.status_code, response.content) == (200, DATA)
    assert response.headers["Content-Type"].startswith(job_results.MEDIA_TYPES[kind])
    assert response.headers["Content-Disposition"].startswith('attachment; filename="night.')
    assert (response.headers["X-Job-State"], response.headers["ETag"]) == ("completed", TAG)
    assert response.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", DATA[:1]),
        ("bytes=100-199", DATA[100:200]),
        ("bytes = 1048570 - 1048580", DATA[1048570:1048581]),
        ("bytes=1000-", DATA[1000:]),
        ("bytes=-10", DATA[-10:]),
        ("bytes=100-99999999", DATA[100:]),
    ],
)
async def test_a_range_continues_a_download(client: httpx.AsyncClient, header: str, expected: bytes) -> None:
    response = await client.get(URL, headers={"Range": header, "If-Range": TAG})
    assert (response.status_code, response.content) == (206, expected)
    start = DATA.index(expected) if header != "bytes=-10" else len(DATA) - 10
    begin = {"bytes=100-199": 100, "bytes = 1048570 - 1048580": 1048570, "bytes=1000-": 1000}.get(header, start)
    span = f"bytes {begin}-{begin + len(expected) - 1}/{len(DATA)}"
    if header != "bytes=100-99999999":
        assert response.headers["Content-Range"] == span
    assert response.headers["Content-Length"] == str(len(expected))


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-1,5-6"},
        {"Range": "lines=0-1"},
        {"Range": "bytes=-"},
        {"Range": "bytes=5-4"},
        {"Range": "bytes=0-1", "If-Range": '"another"'},
        {"Range": "bytes=-99999999"},
        {"Range": "bytes=0-"},
    ],
    ids=str,
)
async def test_the_whole_file_is_sent_if_the_range_cannot_be_used(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    response = await client.get(URL, headers=headers)
    assert (response.status_code, response.content) == (200, DATA)


@pytest.mark.parametrize("header", ["bytes=1280000-", "bytes=-0", "bytes=9999999-99999999"])
async def test_a_range_behind_the_end_is_refused(client: httpx.AsyncClient, header: str) -> None:
    response = await client.get(URL, headers={"Range": header})
    assert is_error(response, 416, "invalid_parameter")
    assert response.headers["Content-Range"] == f"bytes */{len(DATA)}"


async def test_an_empty_file_has_no_ranges(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    jobs.files["night", "jsonl"] = b""
    assert ((await client.get(URL)).status_code, (await client.get(URL)).content) == (200, b"")
    assert is_error(await client.get(URL, headers={"Range": "bytes=0-"}), 416, "invalid_parameter")


async def test_a_client_that_has_the_file_gets_nothing(client: httpx.AsyncClient) -> None:
    response = await client.get(URL, headers={"If-None-Match": TAG})
    assert (response.status_code, response.content) == (304, b"")


async def test_head_tells_the_size(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    response = await client.head(URL)
    assert (response.status_code, response.headers["Content-Length"], response.content) == (200, str(len(DATA)), b"")


async def test_an_unknown_format_is_refused(client: httpx.AsyncClient) -> None:
    assert is_error(await client.get(f"{URL}?format=pdf"), 422, "invalid_parameter")


async def test_a_job_that_runs_has_the_results_so_far(
    client: httpx.AsyncClient, jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_results, "_PAGE", 2)
    jobs.set_state("night", "running")
    jobs.done["night"] = [result_of("night", number) for number in range(5)] + [failure_of("night", 5)]
    lines = await client.get(URL)
    assert (lines.headers["X-Job-State"], "ETag" in lines.headers) == ("running", False)
    results = [json.loads(line) for line in lines.text.splitlines()]
    assert [result["item"] for result in results] == [0, 1, 2, 3, 4]
    assert results[1]["detections"][0]["label"] == "dog"
    table = await client.get(f"{URL}?format=csv")
    assert table.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(table.text.splitlines()))
    assert [(row["item"], row["name"], row["label"], row["x2"]) for row in rows][4] == ("4", "4.jpg", "dog", "4.0")
    for kind in ("coco", "yolo", "parquet"):
        assert is_error(await client.get(f"{URL}?format={kind}"), 409, "not_finished")


async def test_a_job_without_results_so_far_has_an_empty_file(client: httpx.AsyncClient, jobs: FakeJobs) -> None:
    jobs.set_state("night", "queued")
    assert (await client.get(URL)).content == b""
    assert (await client.get(f"{URL}?format=csv")).text.startswith("item,name,id,time_s,width,height,model,label,")


async def test_an_outage_at_the_beginning_has_its_own_status(
    client: httpx.AsyncClient, jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise Unavailable("the supervisor is away")

    jobs.set_state("night", "running")
    monkeypatch.setattr(jobs, "items", fails)
    for kind in ("jsonl", "csv"):
        assert is_error(await client.get(f"{URL}?format={kind}"), 503, "unavailable")
