"""The webhook of drift, which gets the event ``drift`` of every source."""

from __future__ import annotations

import time

from pydantic import ValidationError

from serve_app.config import DriftArgs
from serve_app.errors import ConfigError, InvalidParameter, InvalidUrl
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.drift import DriftChange
from serve_app.schemas.streams import WebhookSink
from serve_app.sinks import Sink, check_sink, open_sink
from serve_app.types import Event

_NAME = "drift"


class DriftWebhook:
    """Sends changes of drift to ``drift.webhook_url``, with the queue and the retries of a stream's webhook."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._next_id = int(time.time() * 1000)  # greater than all ids before a restart, so that ids increase

    def put(self, change: DriftChange, at_s: float) -> None:
        """Queue an event. This never waits for the receiver."""
        head = f'{{"event_id":{self._next_id},"type":"drift","at_s":{at_s:.3f},'
        self._sink.put(Event(self._next_id, "drift", _NAME, head + change.model_dump_json()[1:]))
        self._next_id += 1

    async def close(self, timeout_s: float) -> None:
        """Continue to send for up to ``timeout_s`` seconds, and close the connections."""
        await self._sink.close(timeout_s)


def open_webhook(args: DriftArgs, guard: AddressGuard) -> DriftWebhook | None:
    """Return the webhook, or None if none is configured. Raise ConfigError if its settings are wrong."""
    if args.webhook_url is None:
        return None
    secret = args.webhook_secret.get_secret_value() if args.webhook_secret else ""
    try:
        spec = WebhookSink(type="webhook", url=args.webhook_url.get_secret_value(), secret=secret, events=["drift"])
        check_sink(spec, _NAME, None, guard)
        return DriftWebhook(open_sink(spec, _NAME, None, guard))
    except ValidationError as exc:  # whose text has the URL
        raise ConfigError("drift.webhook_url: it must begin with http:// or https://") from exc
    except InvalidUrl as exc:
        raise ConfigError(f"drift.webhook_url: {exc.detail}") from exc
    except InvalidParameter as exc:
        raise ConfigError(f"drift.webhook_{exc.detail.removeprefix('sinks: ')}") from exc
