"""The publication, which follows all streams and publishes their states."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from pydantic import SecretStr

from serve_app.config import MqttArgs
from serve_app.errors import ConfigError, InvalidParameter, ServeAppError, Unavailable
from serve_app.images.thumbnails import thumbnail
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import Regions, StreamStatus
from serve_app.sinks.mqtt_connection import Broker
from serve_app.sinks.retained import ONLINE, Outcome, OwnTopics, RetainedMessages
from serve_app.streams.publication import home_assistant
from serve_app.streams.publication.messages import Topics, significant, state_of
from serve_app.streams.registry import SUPERVISOR
from serve_app.streams.supervision import Supervision
from serve_app.types import Json

logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0  # the shortest time between two messages about the same stream
_FIGURES_INTERVAL_S = 10.0  # the same, if nothing but figures such as frame rates has changed
_PICTURE_INTERVAL_S = 10.0  # the same, between two pictures
# With more streams, the intervals are longer, so that the publication takes at most a small part of a core.
_MAX_STATES_PER_S = 50.0
_MAX_PICTURES_PER_S = 5.0
_PICTURE_TIMEOUT_S = 5.0
_RETRY_PAUSE_S = 10.0  # after an unexpected error
_MAX_SIDE_PX = 960  # so that the pictures of all streams fit into memory; they are kept in case a broker loses them
_MAX_REMOVED = 100  # removed components of a stream that Home Assistant is told to remove
# The operator names the broker, as with ``jobs.celery.broker_url``, and most brokers are in a private network. The
# guard is for addresses that clients name.
_ANY_ADDRESS = AddressGuard((ip_network("0.0.0.0/0"), ip_network("::/0")))


def broker_of(url: SecretStr) -> Broker:
    """Return the broker with this URL. Raise ConfigError if the URL is malformed."""
    try:
        return Broker(url.get_secret_value(), _ANY_ADDRESS, name="mqtt.url")
    except InvalidParameter as exc:
        raise ConfigError(exc.detail) from None  # without the cause, because it may contain the password


@dataclass
class _Published:
    """What was published about one stream."""

    state: Json = field(default_factory=dict)
    at_s: float = -math.inf  # when the state was published, on the event loop's clock
    components: dict[str, str] = field(default_factory=dict)  # the platform of each of the device's components, by key
    removed: dict[str, str] = field(default_factory=dict)  # the same of the components that the device no longer has
    regions: Regions | None = None  # the zones and lines of the description
    frame_id: int | None = None  # of the last picture
    picture_at_s: float = -math.inf  # when the picture was taken, on the event loop's clock


class StreamPublication:
    """Publishes each stream's state, and for Home Assistant also its description and its last picture.

    Messages about a stream that was deleted are removed from the broker.
    """

    def __init__(self, args: MqttArgs, supervision: Supervision, count: Callable[[Outcome], None]) -> None:
        """Start to publish once the supervision has read its streams. ``count`` is called as ``RetainedMessages`` says.

        Raise ConfigError if the broker's URL is malformed.
        """
        assert args.url is not None
        self._topics = topics = Topics(args.topic)
        self._supervision = supervision
        self._home_assistant = args.home_assistant
        self._published: dict[str, _Published] = {}  # by the stream's id
        self._messages = RetainedMessages(
            broker_of(args.url),
            topics.status,
            OwnTopics((topics.every_stream, home_assistant.EVERY_DEVICE), self._is_own),
            watched={home_assistant.STATUS_TOPIC: self._describe_again} if args.home_assistant else {},
            count=count,
        )
        self._is_started = False
        loops = [self._publish_states, *([self._publish_pictures] if args.home_assistant else [])]
        self._tasks = [asyncio.create_task(self._repeat(loop)) for loop in loops]

    async def close(self) -> None:
        """Publish that the server is offline, and disconnect. What was published about the streams stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._messages.close()

    async def _repeat(self, publish: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await publish()
            except Unavailable:  # another supervisor still manages the streams
                pass
            except Exception:  # a bug, which must not end the publication until the next start
                logger.exception("mqtt: unexpected error; retrying in %g s", _RETRY_PAUSE_S)
                await asyncio.sleep(_RETRY_PAUSE_S)
            await asyncio.sleep(max(_INTERVAL_S, len(self._published) / _MAX_STATES_PER_S))

    async def _publish_states(self) -> None:
        statuses = await self._supervision.all(SUPERVISOR)
        for status in statuses:
            self._publish_state(status)
        for stream_id in self._published.keys() - {status.stream_id for status in statuses}:
            del self._published[stream_id]
            for topic in self._topics_of(stream_id):
                self._messages.remove(topic)
        if not self._is_started:  # not earlier, because the broker's messages on other topics will be removed
            self._messages.start()
            self._is_started = True

    def _publish_state(self, status: StreamStatus) -> None:
        published = self._published.setdefault(status.stream_id, _Published())
        state, now_s = state_of(status), _now_s()
        is_due = now_s - published.at_s >= _FIGURES_INTERVAL_S
        if is_due or significant(state) != significant(published.state):
            published.state, published.at_s = state, now_s
            self._messages.put(self._topics.state(status.stream_id), _encode(state))
        stream = self._supervision.registry.streams.get(status.stream_id)
        if self._home_assistant and stream is not None:
            spec = stream.record.spec
            self._describe(status.stream_id, Regions(zones=spec.zones, lines=spec.lines), published)

    def _describe(self, stream_id: str, regions: Regions, published: _Published) -> None:
        """Publish a stream's description for Home Assistant, if it has changed."""
        if published.regions == regions:
            return
        published.regions = regions
        components = home_assistant.components_of(self._topics, stream_id, regions)
        platforms = {key: str(component["p"]) for key, component in components.items()}
        removed = {**published.removed, **published.components}
        kept = [key for key in removed if key not in platforms][-_MAX_REMOVED:]
        published.components, published.removed = platforms, {key: removed[key] for key in kept}
        device = home_assistant.device_of(self._topics, stream_id, components, published.removed)
        self._messages.put(home_assistant.discovery_topic(self._topics, stream_id), _encode(device))

    def _describe_again(self, payload: bytes) -> None:
        """Publish all descriptions when Home Assistant has started."""
        if payload == ONLINE:
            for stream_id in self._published:
                self._messages.send_again(home_assistant.discovery_topic(self._topics, stream_id))

    async def _publish_pictures(self) -> None:
        """Publish the newest frame of each running stream, with its boxes."""
        interval_s = max(_PICTURE_INTERVAL_S, len(self._published) / _MAX_PICTURES_PER_S)
        for stream_id, published in list(self._published.items()):
            now_s = _now_s()
            if published.state["state"] != "running" or now_s - published.picture_at_s < interval_s:
                continue
            try:
                async with asyncio.timeout(_PICTURE_TIMEOUT_S):
                    frame = await self._supervision.snapshot(stream_id, SUPERVISOR, None, 0, True)
            except ServeAppError:  # the stream was deleted
                continue
            except TimeoutError:  # its process does not answer, so we leave it alone for as long as after a picture
                published.picture_at_s = now_s
                continue
            if frame is None or frame.frame_id == published.frame_id:
                continue
            picture = await asyncio.to_thread(thumbnail, frame.jpeg, _MAX_SIDE_PX)
            if self._published.get(stream_id) is published:
                published.frame_id, published.picture_at_s = frame.frame_id, now_s
                self._messages.put(self._topics.picture(stream_id), picture)

    def _is_own(self, topic: str) -> bool:
        return self._topics.contains(topic) or home_assistant.is_discovery_topic(self._topics, topic)

    def _topics_of(self, stream_id: str) -> tuple[str, ...]:
        return (
            self._topics.picture(stream_id),
            home_assistant.discovery_topic(self._topics, stream_id),
            self._topics.state(stream_id),
        )


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _encode(message: Json) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()
