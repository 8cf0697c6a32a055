"""Tests of streams that are refused when they are created."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import LONG_TIMEOUT_S, Service, start_stream, stream_ids

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
