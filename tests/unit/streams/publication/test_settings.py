"""Tests of the settings of the broker."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from serve_app.config import parse_args
from serve_app.errors import ConfigError, StartError
from serve_app.streams.publication import check_broker


def test_nothing_is_published_without_a_broker() -> None:
    args = parse_args({}).mqtt
    assert (args.url, args.topic, args.home_assistant) == (None, "sightline", False)
    check_broker(args)


@pytest.mark.parametrize("url", ["mqtt://127.0.0.1", "mqtt://me:hunter%3A2@host:1884", "mqtts://broker.example"])
def test_a_valid_broker_is_accepted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_MQTT_URL", url)
    args = parse_args({"mqtt": {"topic": "site/north", "home_assistant": True}})
    check_broker(args.mqtt)
    assert "hunter" not in repr(args)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"url": "http://me:hunter2@host"}, "mqtt.url"),
        ({"url": "mqtt://me:hunter2@host/topic"}, "mqtt.url"),
        ({"url": "mqtt://me:hunter/2@host"}, "mqtt.url"),
        ({"url": "mqtt://me:hunter2@host:0"}, "mqtt.url"),
        ({"url": "hunter2"}, "mqtt.url"),
        ({"home_assistant": True}, "mqtt.home_assistant"),
        ({"url": "mqtt://host", "topic": "homeassistant"}, "mqtt.topic"),
    ],
    ids=str,
)
def test_a_broker_that_cannot_be_used_is_refused_without_its_password(settings: dict[str, Any], name: str) -> None:
    args = parse_args({"mqtt": settings}).mqtt
    with pytest.raises(ConfigError) as refusal:
        check_broker(args)
    assert refusal.value.detail.startswith(name)
    assert "hunter" not in repr(refusal.value) + repr(refusal.value.__cause__)


@pytest.mark.parametrize("topic", ["a/#", "+/a", "/a", "a/", "a//b", "a b", "$SYS"])
def test_a_topic_must_be_plain(topic: str) -> None:
    with pytest.raises(ConfigError, match=r"mqtt\.topic"):
        parse_args({"mqtt": {"topic": topic}})


def test_the_error_names_the_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "serve_app.streams.publication.publication", raising=False)
    monkeypatch.delitem(sys.modules, "serve_app.sinks.mqtt_connection", raising=False)
    monkeypatch.delitem(sys.modules, "serve_app.sinks.retained", raising=False)
    monkeypatch.setitem(sys.modules, "aiomqtt", None)
    with pytest.raises(StartError, match=r"pip install 'sightline\[mqtt\]'"):
        check_broker(parse_args({"mqtt": {"url": "mqtt://host"}}).mqtt)
