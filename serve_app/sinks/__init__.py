"""The sinks to which the events of streams and jobs are sent: files, webhooks, MQTT brokers and Redis.

Each kind of sink has its own module.
"""

from __future__ import annotations

from pathlib import Path

from serve_app.errors import InvalidParameter, StartError
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import EventSinkSpec, JsonLinesSink, MqttSink, RedisSink, WebhookSink
from serve_app.sinks.jsonl import JsonLinesOutlet
from serve_app.sinks.outlet import Outlet, parse_url
from serve_app.sinks.queue import Sink
from serve_app.sinks.webhook import WebhookOutlet

__all__ = ["Outlet", "Sink", "check_sink", "open_outlet", "open_sink"]


def check_sink(spec: EventSinkSpec, stream_id: str, output_dir: Path | None, guard: AddressGuard) -> None:
    """Raise the same errors as ``open_sink``, and InvalidUrl if the URL contains an IP address that is not allowed."""
    open_sink(spec, stream_id, output_dir, guard)
    if not isinstance(spec, JsonLinesSink):
        guard.check_literal_address(parse_url(spec.url).hostname or "")


def open_sink(spec: EventSinkSpec, stream_id: str, output_dir: Path | None, guard: AddressGuard) -> Sink:
    """Return a sink. It connects when it sends its first event, and only to addresses that ``guard`` allows.

    Raise InvalidParameter if the sink's settings are not valid, and StartError if its library is not installed.
    """
    outlet = open_outlet(spec, stream_id, output_dir, guard)
    return Sink(spec.type, outlet, subject=f"stream {stream_id}", events=spec.events)


def open_outlet(spec: EventSinkSpec, subject_id: str, output_dir: Path | None, guard: AddressGuard) -> Outlet:
    """Return the outlet of a sink of a stream or a job. Raise the errors of ``open_sink``."""
    match spec:
        case JsonLinesSink():
            if output_dir is None:
                raise InvalidParameter("sinks: type jsonl needs streams.output_dir; set SERVE_APP_OUTPUT_DIR")
            return JsonLinesOutlet(spec, subject_id, output_dir)
        case WebhookSink():
            return WebhookOutlet(spec, guard)
        case MqttSink():
            try:
                from serve_app.sinks.mqtt import MqttOutlet
            except ImportError as exc:
                raise StartError("MQTT support is not installed; run: pip install 'sightline[mqtt]'") from exc
            return MqttOutlet(spec, guard)
        case RedisSink():
            try:
                from serve_app.sinks.redis import RedisOutlet
            except ImportError as exc:
                raise StartError("Redis support is not installed; run: pip install 'sightline[redis]'") from exc
            return RedisOutlet(spec, guard)
