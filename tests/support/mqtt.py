"""A client of an MQTT broker, for tests of retained messages. Run as a program, it keeps such messages itself."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network

import aiomqtt

from serve_app.network.address_guard import AddressGuard
from serve_app.sinks.mqtt_connection import Broker
from serve_app.sinks.retained import Outcome, OwnTopics, RetainedMessages

HERE = AddressGuard((ip_network("127.0.0.0/8"),))
STATUS = "test/status"
_OWN = OwnTopics(("test/own/+", "test/+/config"), lambda topic: topic.startswith("test/own/"))
_END = "test/end-of-retained-messages"


async def retained(port: int) -> dict[str, bytes]:
    """Return the messages that the broker retains, by topic."""
    found: dict[str, bytes] = {}
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("#", qos=1)
        await client.publish(_END, qos=1)  # arrives after the retained messages
        async for message in client.messages:
            if str(message.topic) == _END:
                break
            if message.retain:
                found[str(message.topic)] = message.payload
    return found


async def until_retained(
    port: int, look: Callable[[dict[str, bytes]], object], *, within_s: float = 60
) -> dict[str, bytes]:
    """Wait until ``look`` returns a true value for the retained messages, and return them. Raise AssertionError."""
    expires_at_s = time.monotonic() + within_s
    while not look(found := await retained(port)):
        assert time.monotonic() < expires_at_s, f"not within {within_s:g} s: {found}"
        await asyncio.sleep(0.05)
    return found


@asynccontextmanager
async def listening(port: int, topic: str) -> AsyncIterator[list[tuple[str, bytes]]]:
    """Collect the topic and the payload of each message on a topic, retained ones first."""
    received: list[tuple[str, bytes]] = []
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe(topic, qos=1)

        async def collect() -> None:
            async for message in client.messages:
                received.append((str(message.topic), message.payload))

        collecting = asyncio.create_task(collect())
        yield received
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)


async def publish(port: int, topic: str, payload: bytes, *, retain: bool = False) -> None:
    """Publish one message."""
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.publish(topic, payload, qos=1, retain=retain)


def new_messages(
    port: int,
    *,
    login: str = "",
    watched: dict[str, Callable[[bytes], None]] | None = None,
    count: Callable[[Outcome], None] = lambda outcome: None,
) -> RetainedMessages:
    """Return messages on topics below ``test/own/``, with the status on the topic ``STATUS``. They are not started."""
    broker = Broker(f"mqtt://{login}127.0.0.1:{port}", HERE, name="mqtt.url")
    return RetainedMessages(broker, STATUS, _OWN, watched=watched or {}, count=count)


async def _main(port: int) -> None:
    messages = new_messages(port)
    messages.put("test/own/a", b"1")
    messages.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
