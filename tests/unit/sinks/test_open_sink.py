"""The public names of sinks, and the refusal of settings that are not valid."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import InvalidParameter, StartError
from tests.support.sinks import SECRET, new_sink

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("spec", "target"),
    [
        ({"type": "webhook", "url": "https://me:hunter2@host:81/hunter2?a=hunter2"}, "https://host:81/…"),
        ({"type": "webhook", "url": "http://[::1]/hunter2", "secret": SECRET}, "http://[::1]/…"),
        ({"type": "mqtt", "url": "mqtt://me:hunter2@host:1884"}, "mqtt://host:1884"),
        ({"type": "mqtt", "url": "mqtts://me:hunter%3A2@host"}, "mqtts://host"),
        ({"type": "redis", "url": "redis://:hunter2@host:6380/3"}, "redis://host:6380/3"),
        ({"type": "redis", "url": "rediss://me:hunter2@host"}, "rediss://host/0"),
    ],
)
async def test_a_target_shows_no_secret(spec: dict[str, Any], target: str, tmp_path: Path) -> None:
    sink = new_sink(tmp_path, **spec)
    assert sink.status().target == target
    shown = repr(sink) + repr(sink.status()) + repr(vars(sink)) + repr(vars(sink._outlet).get("_redis"))
    assert "hunter2" not in shown
    await sink.close(0)


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "webhook", "url": "https://"},
        {"type": "webhook", "url": "https://host:hunter2/"},
        {"type": "webhook", "url": "https://ho st/hunter2"},
        {"type": "webhook", "url": "https://a..b/"},
        {"type": "webhook", "url": "https://[::1/"},
        {"type": "webhook", "url": "http://admin:12345/hunter2@host/"},  # read as the host "admin" and the port 12345
        {"type": "webhook", "url": "http://admin:12345?hunter2@host/"},
        {"type": "webhook", "url": "http://admin:12345#hunter2@host/"},
        {"type": "mqtt", "url": "mqtt://admin:12345/hunter2@host"},
        {"type": "redis", "url": "redis://admin:12345/@host"},
        {"type": "webhook", "url": "https://host", "secret": "hunter2"},
        {"type": "webhook", "url": "https://host", "secret": SECRET.removeprefix("whsec_")},
        {"type": "webhook", "url": "https://host", "secret": "whsec_aHVudGVyMg=="},
        {"type": "webhook", "url": "https://host", "secret": "whsec_é"},
        {"type": "mqtt", "url": "mqtt://me:hunter/2@host"},
        {"type": "mqtt", "url": "mqtt://host/topic"},
        {"type": "mqtt", "url": "mqtt://host", "topic": "a/#"},
        {"type": "mqtt", "url": "mqtt://host", "topic": "+/a"},
        {"type": "redis", "url": "redis://host/name"},
        {"type": "redis", "url": "redis://host/0?password=hunter2"},
        {"type": "redis", "url": "redis://me:#hunter2@host"},
    ],
)
async def test_invalid_sink_settings_are_refused_at_once(spec: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        new_sink(tmp_path, **spec)
    assert "hunter2" not in refusal.value.detail


@pytest.mark.parametrize(("kind", "library"), [("mqtt", "aiomqtt"), ("redis", "redis.asyncio")])
async def test_the_error_names_a_missing_library(
    kind: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"serve_app.sinks.{kind}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(StartError, match=rf"pip install 'sightline\[{kind}\]'"):
        new_sink(tmp_path, type=kind, url=f"{kind}://host")
