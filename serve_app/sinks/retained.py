"""Messages that an MQTT broker retains, and a status that says whether the process that sends them is running."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from aiomqtt import MqttError

from serve_app.sinks.mqtt_connection import Broker, BrokerConnection, Message
from serve_app.sinks.outlet import TIMEOUT_S, DeliveryFailed, DeliveryRefused
from serve_app.sinks.queue import retry_pauses_s

logger = logging.getLogger(__name__)

ONLINE, OFFLINE = b"online", b"offline"
_MAX_RETRY_S = 5.0
# If the server's machine loses its power, the broker publishes the status offline after 1.5 times this period. If only
# the process dies, the broker notices at once, because the kernel closes the connection.
_KEEP_ALIVE_S = 3
_BATCH = 20  # fewer than a connection allows, because each message may be a picture
_CLEANUP_S = 5.0  # after a subscription, a broker sends the retained messages at once

Outcome = Literal["sent", "superseded", "failed"]


@dataclass(frozen=True)
class OwnTopics:
    """The topics whose retained messages belong to this server alone."""

    filters: tuple[str, ...]  # MQTT topic filters; each matches at least the server's own topics
    contains: Callable[[str], bool]  # whether a topic is the server's own


class RetainedMessages:
    """Keeps the retained messages of a broker equal to the messages that ``put`` was given last.

    After each connection, all messages are sent again, because a broker may have lost them. Retained messages on the
    server's own topics that are not among them are removed, because they may be older than this process. ``count`` is
    called with ``sent`` for each message, with ``superseded`` for each message that a newer one to the same topic
    replaced before it was sent, and with ``failed`` for each connection that could not be opened or was lost. Use this
    class in the event loop only.
    """

    def __init__(
        self,
        broker: Broker,
        status_topic: str,
        own: OwnTopics,
        *,
        watched: Mapping[str, Callable[[bytes], None]],
        count: Callable[[Outcome], None],
    ) -> None:
        """Prepare the messages, the first of which is the status ``online``.

        When another client publishes to a topic in ``watched``, its function is called with the payload.
        """
        self._broker = broker
        self._status_topic = status_topic
        self._own = own
        self._watched = watched
        self._count = count
        self._kept: dict[str, bytes] = {status_topic: ONLINE}  # the messages that the broker should retain, by topic
        self._unsent: dict[str, None] = {}  # the topics whose message must be sent, in order
        self._changed = asyncio.Event()  # set when there may be something to send
        self._is_connected = False
        self._problem = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect, and stay connected until ``close`` is called."""
        self._task = asyncio.create_task(self._run(), name="retained messages")

    def put(self, topic: str, payload: bytes) -> None:
        """Replace the message of a topic, unless it has the same payload."""
        if self._kept.get(topic) != payload:
            if topic in self._unsent:
                self._count("superseded")
            self._kept[topic] = payload
            self._send(topic)

    def remove(self, topic: str) -> None:
        """Remove the message of a topic from the broker."""
        if self._kept.pop(topic, None) is None:
            return
        if self._is_connected:
            self._send(topic)
        else:
            self._unsent.pop(topic, None)  # the next connection removes all messages that are not kept

    def send_again(self, topic: str) -> None:
        """Send the message of a topic again, if there is one."""
        if topic in self._kept:
            self._send(topic)

    async def close(self) -> None:
        """Publish the status ``offline``, and disconnect. This takes at most ``2 * TIMEOUT_S`` seconds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _send(self, topic: str) -> None:
        self._unsent[topic] = None
        self._changed.set()

    async def _run(self) -> None:
        pauses_s = retry_pauses_s(_MAX_RETRY_S)
        while True:
            try:
                await self._stay_connected()
            except (DeliveryFailed, DeliveryRefused) as exc:
                problem = str(exc)
            except Exception as exc:  # a bug, which must not end the messages until the next start
                logger.exception("mqtt: unexpected error")
                problem = f"unexpected error: {type(exc).__name__}"
            if not self._problem:  # the connection has worked
                pauses_s = retry_pauses_s(_MAX_RETRY_S)
            self._is_connected = False
            self._set_problem(problem)
            self._count("failed")
            await asyncio.sleep(next(pauses_s))

    async def _stay_connected(self) -> None:
        """Connect, send all messages, and then each new one. Raise DeliveryFailed when the connection is lost."""
        connection = await self._broker.connect(
            # A broker disconnects a client if another one connects with the same identifier.
            identifier=f"sightline-{secrets.token_hex(4)}",
            will=Message(self._status_topic, OFFLINE, is_retained=True),
            received=self._receive,
            keep_alive_s=_KEEP_ALIVE_S,
        )
        try:
            await self._send_changes(connection)
        except MqttError as exc:
            reason = self._broker.failure(exc)
        except asyncio.CancelledError:
            if not self._problem:
                with suppress(MqttError, TimeoutError):
                    async with asyncio.timeout(TIMEOUT_S):
                        await connection.publish([Message(self._status_topic, OFFLINE, is_retained=True)])
            raise
        finally:
            await connection.close()
        raise DeliveryFailed(reason)  # without ``from exc``, because a reference to ``exc`` keeps its socket open

    async def _send_changes(self, connection: BrokerConnection) -> None:
        await connection.opened()
        self._is_connected = True
        self._unsent = dict.fromkeys(self._kept)
        await connection.subscribe([self._status_topic, *self._watched, *self._own.filters])
        cleaning_until_s: float | None = _now_s() + _CLEANUP_S
        while True:
            self._changed.clear()
            while topics := list(self._unsent)[:_BATCH]:
                await self._send_batch(connection, topics)
            self._set_problem("")
            if cleaning_until_s is not None and _now_s() >= cleaning_until_s:
                cleaning_until_s = None
                await connection.unsubscribe(self._own.filters)  # otherwise, we would receive all our own messages
            left_s = None if cleaning_until_s is None else max(0.0, cleaning_until_s - _now_s())
            await connection.wait(self._changed, left_s)

    async def _send_batch(self, connection: BrokerConnection, topics: list[str]) -> None:
        for topic in topics:
            del self._unsent[topic]
        # An empty message makes the broker remove the one that it retains.
        await connection.publish([Message(topic, self._kept.get(topic, b""), is_retained=True) for topic in topics])
        for _ in topics:
            self._count("sent")

    def _receive(self, topic: str, payload: bytes, is_retained: bool) -> None:
        if topic == self._status_topic:
            # The status of a server that ran before us, whose end the broker has noticed after our start.
            if payload != ONLINE:
                self._send(topic)
        elif topic in self._watched:
            if not is_retained:
                self._watched[topic](payload)
        elif is_retained and payload and topic not in self._kept and self._own.contains(topic):
            self._send(topic)

    def _set_problem(self, problem: str) -> None:
        if problem and not self._problem:
            logger.warning("mqtt: %s: %s; retrying", self._broker.address, problem)
        elif self._problem and not problem:
            logger.info("mqtt: %s works again", self._broker.address)
        self._problem = problem


def _now_s() -> float:
    return asyncio.get_running_loop().time()
