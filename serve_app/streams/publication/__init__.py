"""The states of streams at an MQTT broker, where other programs, such as Home Assistant, read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve_app.config import MqttArgs
from serve_app.errors import ConfigError, StartError

if TYPE_CHECKING:
    from serve_app.streams.publication.publication import StreamPublication
    from serve_app.streams.supervision import Supervision
    from serve_app.telemetry.metrics import Telemetry

__all__ = ["check_broker", "open_publication"]


def check_broker(args: MqttArgs) -> None:
    """Raise ConfigError if the settings are not valid, and StartError if MQTT support is not installed."""
    if args.url is None:
        if args.home_assistant:
            raise ConfigError("mqtt.home_assistant: it needs a broker; set mqtt.url, too")
        return
    if args.topic == "homeassistant":
        raise ConfigError("mqtt.topic: Home Assistant publishes its own status below this topic; use another one")
    try:
        from serve_app.streams.publication.publication import broker_of
    except ImportError as exc:
        raise StartError("mqtt.url: MQTT support is not installed; run: pip install 'sightline[mqtt]'") from exc
    broker_of(args.url)


def open_publication(args: MqttArgs, supervision: Supervision, telemetry: Telemetry) -> StreamPublication | None:
    """Start to publish the states of all streams. Return None if no broker is set. Raise as ``check_broker``."""
    check_broker(args)
    if args.url is None:
        return None
    from serve_app.streams.publication.publication import StreamPublication

    return StreamPublication(args, supervision, telemetry.published)
