"""Tests of an application whose engine takes 0.2 s for a batch, whether it has one image or eight."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from ray import serve

from scripts.launch import is_ready
from serve_app.app import build_app
from tests.integration.conftest import (
    LONG_TIMEOUT_S,
    Service,
    delete_stream,
    eventually,
    start_stream,
    stream_ids,
    stream_status,
)
from tests.support import squares


@pytest.fixture(scope="module")
def slow_url(service: Service, stream_folders: dict[str, str]) -> Iterator[str]:
    """Run a second application, whose Detector can process 40 images/s."""
    args = {"model": {"engine": "sleep"}, "batcher": {"max_batch_size": 8}, "streams": stream_folders}
    serve.run(build_app(args), name="slow", route_prefix="/slow")
    url = f"{service.url}/slow"
    eventually(lambda: is_ready(url), what="readiness")
    yield url
    if "slow" in serve.status().applications:
        serve.delete("slow")


@pytest.fixture
def no_streams(slow_url: str) -> Iterator[None]:
    """Delete all streams of the application at the end of a test."""
    yield
    for stream_id in stream_ids(slow_url):
        delete_stream(slow_url, stream_id)


def test_batches_fill_while_the_engine_is_busy(slow_url: str) -> None:
    """Check that 32 concurrent clients lead to a mean batch size above 4, in images per execution."""

    async def run() -> list[int]:
        data = squares.encode(squares.picture([]))
        async with httpx.AsyncClient(timeout=LONG_TIMEOUT_S) as client:

            async def one_client() -> list[int]:
                return [(await client.post(f"{slow_url}/detect", content=data)).json()["batch_size"] for _ in range(10)]

            return [size for sizes in await asyncio.gather(*(one_client() for _ in range(32))) for size in sizes]

    sizes = asyncio.run(run())
    assert max(sizes) <= 8
    assert len(sizes) / sum(1 / size for size in sizes) > 4


@pytest.mark.usefixtures("no_streams")
def test_streams_beyond_the_capacity_are_refused_unless_they_may_degrade(slow_url: str) -> None:
    camera = "rtsp://127.0.0.1:9/"
    start_stream(slow_url, camera, stream_id="first")
    second = {"id": "second", "source": {"uri": camera}}
    refused = httpx.post(f"{slow_url}/streams", json=second, timeout=LONG_TIMEOUT_S)
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert "as much time as 25 of them, and this one would add 25" in refused.json()["detail"]
    for fields in ({"max_fps": 5}, {"degrade": True}):
        httpx.post(f"{slow_url}/streams", json=second | fields, timeout=LONG_TIMEOUT_S).raise_for_status()
        delete_stream(slow_url, "second")
    httpx.post(f"{slow_url}/streams/first/pause", timeout=LONG_TIMEOUT_S).raise_for_status()
    httpx.post(f"{slow_url}/streams", json=second, timeout=LONG_TIMEOUT_S).raise_for_status()
    resumed = httpx.post(f"{slow_url}/streams/first/resume", timeout=LONG_TIMEOUT_S)
    assert resumed.status_code == 503
    assert stream_status(slow_url, "first").state == "paused"


@pytest.mark.usefixtures("no_streams")
def test_streams_created_at_once_are_admitted_one_by_one(slow_url: str) -> None:
    def create(number: int) -> int:
        spec = {"id": f"at-once-{number}", "source": {"uri": "rtsp://127.0.0.1:9/"}}
        return httpx.post(f"{slow_url}/streams", json=spec, timeout=LONG_TIMEOUT_S).status_code

    with ThreadPoolExecutor(4) as clients:
        assert sorted(clients.map(create, range(4))) == [201, 503, 503, 503]
    assert len(stream_ids(slow_url)) == 1


def test_accepted_requests_are_answered_when_the_application_is_deleted(slow_url: str) -> None:
    """Delete the application during requests that take 6 s together.

    The replicas that call the Detector must stop before the Detector does. This is the last test of the file, because
    it deletes the application of all its tests.
    """
    picture = squares.encode(squares.picture([]))
    parts = [("file", picture)] * 32

    async def run() -> list[int]:
        async with httpx.AsyncClient(timeout=LONG_TIMEOUT_S) as client:
            requests = [asyncio.create_task(client.post(f"{slow_url}/detect", files=parts)) for _ in range(8)]
            await asyncio.sleep(0)  # let the requests start
            await client.post(f"{slow_url}/detect", content=picture)  # returns before the last of the others does
            assert not all(request.done() for request in requests)
            await asyncio.to_thread(serve.delete, "slow")
            return [response.status_code for response in await asyncio.gather(*requests)]

    assert asyncio.run(run()) == [200] * 8
