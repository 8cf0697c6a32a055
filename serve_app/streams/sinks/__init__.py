"""Where a stream's events go besides its subscribers: files, webhooks, MQTT brokers, Redis. One file a kind."""

from __future__ import annotations

from pathlib import Path

from serve_app.errors import InvalidParameter, StartError
from serve_app.stream_schemas import JsonLinesSink, MqttSink, RedisSink, SinkSpec, WebhookSink
from serve_app.streams.sinks.jsonl import JsonLinesOutlet
from serve_app.streams.sinks.outlet import Outlet
from serve_app.streams.sinks.queue import Sink
from serve_app.streams.sinks.webhook import WebhookOutlet

__all__ = ["Sink", "open_sink"]


def open_sink(spec: SinkSpec, stream_id: str, output_dir: Path | None) -> Sink:
    """The sink, which connects when its first event comes.

    Raises InvalidParameter for what it cannot be, StartError where its library is not installed.
    """
    return Sink(spec.type, _outlet(spec, stream_id, output_dir), stream_id=stream_id, events=spec.events)


def _outlet(spec: SinkSpec, stream_id: str, output_dir: Path | None) -> Outlet:
    match spec:
        case JsonLinesSink():
            if output_dir is None:
                raise InvalidParameter("a file of events needs streams.output_dir (SERVE_APP_OUTPUT_DIR)")
            return JsonLinesOutlet(spec, stream_id, output_dir)
        case WebhookSink():
            return WebhookOutlet(spec)
        case MqttSink():
            try:
                from serve_app.streams.sinks.mqtt import MqttOutlet
            except ImportError as exc:
                raise StartError("MQTT is an extra: pip install 'sightline[mqtt]'") from exc
            return MqttOutlet(spec)
        case RedisSink():
            try:
                from serve_app.streams.sinks.redis import RedisOutlet
            except ImportError as exc:
                raise StartError("Redis is an extra: pip install 'sightline[redis]'") from exc
            return RedisOutlet(spec)
