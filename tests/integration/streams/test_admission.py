"""Tests of streams that are refused when they are created."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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

pytestmark = pytest.mark.usefixtures("streams")


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        ({"source": {"uri": "/etc/hostname"}}, "invalid_source", "SERVE_APP_MEDIA_DIRS"),
        ({"source": {"uri": "ftp://user:secret@host/file"}}, "invalid_source", "rtsp"),
        ({"detect": {"classes": ["unicorn"]}}, "invalid_parameter", "no class 'unicorn'"),
        ({"detect": {"model": "cars"}}, "invalid_parameter", "model 'cars' is not currently deployed"),
        ({"sinks": [{"type": "jsonl", "path": "../a.jsonl"}]}, "invalid_parameter", "must stay inside"),
        ({"id": "../lot"}, "invalid_parameter", "id"),
        ({"fsp": 3}, "invalid_parameter", "fsp"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_an_invalid_stream_is_refused(
    service: Service, video: Path, fields: dict[str, Any], code: str, sentence: str
) -> None:
    spec = {"id": "lot", "source": {"uri": str(video)}} | fields
    refused = httpx.post(f"{service.url}/streams", json=spec, timeout=LONG_TIMEOUT_S)
    assert (refused.status_code, refused.json()["code"]) == (422, code)
    assert sentence in refused.json()["detail"]
    assert "secret" not in refused.text
    assert stream_ids(service.url) == []


def test_an_id_can_be_used_only_once(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    again = httpx.post(
        f"{service.url}/streams", json={"id": "lot", "source": {"uri": str(video)}}, timeout=LONG_TIMEOUT_S
    )
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert stream_ids(service.url) == ["lot"]


@pytest.fixture
def slow_url(service: Service, stream_folders: dict[str, str]) -> Iterator[str]:
    """Run a second application, whose Detector can process 40 images/s."""
    args = {"model": {"engine": "sleep"}, "streams": stream_folders}
    serve.run(build_app(args), name="slow", route_prefix="/slow")
    url = f"{service.url}/slow"
    eventually(lambda: is_ready(url), what="readiness")
    yield url
    for stream_id in stream_ids(url):
        delete_stream(url, stream_id)
    serve.delete("slow")


def test_streams_beyond_the_capacity_are_refused_unless_they_may_degrade(slow_url: str) -> None:
    camera = "rtsp://127.0.0.1:9/"
    start_stream(slow_url, camera, stream_id="first")
    second = {"id": "second", "source": {"uri": camera}}
    refused = httpx.post(f"{slow_url}/streams", json=second, timeout=LONG_TIMEOUT_S)
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert "send 25, and this one would add 25" in refused.json()["detail"]
    for fields in ({"max_fps": 5}, {"degrade": True}):
        httpx.post(f"{slow_url}/streams", json=second | fields, timeout=LONG_TIMEOUT_S).raise_for_status()
        delete_stream(slow_url, "second")
    httpx.post(f"{slow_url}/streams/first/pause", timeout=LONG_TIMEOUT_S).raise_for_status()
    httpx.post(f"{slow_url}/streams", json=second, timeout=LONG_TIMEOUT_S).raise_for_status()
    resumed = httpx.post(f"{slow_url}/streams/first/resume", timeout=LONG_TIMEOUT_S)
    assert resumed.status_code == 503
    assert stream_status(slow_url, "first").state == "paused"


def test_streams_created_at_once_are_admitted_one_by_one(slow_url: str) -> None:
    def create(number: int) -> int:
        spec = {"id": f"at-once-{number}", "source": {"uri": "rtsp://127.0.0.1:9/"}}
        return httpx.post(f"{slow_url}/streams", json=spec, timeout=LONG_TIMEOUT_S).status_code

    with ThreadPoolExecutor(4) as clients:
        assert sorted(clients.map(create, range(4))) == [201, 503, 503, 503]
    assert len(stream_ids(slow_url)) == 1
