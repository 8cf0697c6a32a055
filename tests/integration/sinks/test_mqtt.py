"""Tests of the MQTT sink with a real broker that is slow, unreachable, killed or restarted."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import aiomqtt
import pytest

from scripts.trials.relay import Relay
from tests.integration.sinks.conftest import QUEUE_SIZE, ServerStarter, has_sent, opened, put
from tests.support.sinks import event, until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def subscription(port: int, received: list[tuple[str, int]]) -> AsyncIterator[None]:
    """Subscribe to all topics, and add the topic and event id of each message to ``received``."""
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("#", qos=1)

        async def collect() -> None:
            async for message in client.messages:
                received.append((str(message.topic), json.loads(message.payload)["event_id"]))

        collecting = asyncio.create_task(collect())
        yield
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)


def numbers(received: list[tuple[str, int]]) -> list[int]:
    """Return the event ids without duplicates, in the order of their first arrival."""
    return list(dict.fromkeys(event_id for _, event_id in received))


@pytest.mark.parametrize("qos", [0, 1])
async def test_events_arrive_as_mqtt_messages_in_order(qos: int, broker: ServerStarter) -> None:
    port = broker().port
    received: list[tuple[str, int]] = []
    async with subscription(port, received), opened(type="mqtt", url=f"mqtt://127.0.0.1:{port}", qos=qos) as sink:
        put(sink, range(250))
        sink.put(event(250, "line"))
        await sink.close(60)
        assert sink.status().sent == 251
        await until(lambda: len(received) >= 251)
    assert received == [("sightline/lot/result", n) for n in range(250)] + [("sightline/lot/line", 250)]


async def test_events_queued_while_the_broker_was_down_arrive_when_it_is_back(
    broker: ServerStarter,
) -> None:
    server = broker()
    received: list[tuple[str, int]] = []
    # The broker drops messages that have no subscriber. So the relay between the sink and the broker is connected
    # only after the subscriber is back.
    with Relay(server.port) as cable:
        async with opened(type="mqtt", url=f"mqtt://127.0.0.1:{cable.port}") as sink:
            for times in range(3):
                async with subscription(server.port, received):
                    cable.plug()
                    sink.put(event(100 * times))
                    await until(partial(has_sent, sink, 100 * times + 1))
                    await until(lambda: sink.status().sent - 1 in numbers(received))
                server.kill()
                cable.unplug()
                put(sink, range(100 * times + 1, 100 * times + 100))
                await until(lambda: sink.status().detail.startswith("the broker cannot be reached"))
                server.start()
                async with subscription(server.port, received):
                    cable.plug()
                    await until(partial(has_sent, sink, 100 * times + 100))
                    await until(lambda: sink.status().sent - 1 in numbers(received))
                assert sink.status().detail == ""
    assert numbers(received) == list(range(300))


async def test_the_sink_reconnects_to_a_restarted_broker(broker: ServerStarter) -> None:
    server = broker()
    async with opened(type="mqtt", url=f"mqtt://127.0.0.1:{server.port}") as sink:
        for sent in (1, 2, 3):
            sink.put(event(sent))
            await until(partial(has_sent, sink, sent))
            server.kill()
            server.start()


async def test_a_dead_broker_does_not_slow_the_stream(broker: ServerStarter) -> None:
    server = broker()
    async with opened(type="mqtt", url=f"mqtt://127.0.0.1:{server.port}") as sink:
        sink.put(event(0))
        await until(lambda: sink.status().sent == 1)
        server.freeze()
        sink.put(event(1))
        await until(lambda: sink.status().detail)
        put(sink, range(2, QUEUE_SIZE + 12))
        assert sink.status().dropped == {"queue_full": 10}
        server.thaw()
        await until(lambda: sink.status().waiting == 0)
        assert sink.status().sent == QUEUE_SIZE + 2


async def test_a_broker_that_never_answers_leaves_no_connection_open(broker: ServerStarter) -> None:
    server = broker()
    server.freeze()
    async with opened(type="mqtt", url=f"mqtt://127.0.0.1:{server.port}") as sink:
        sink.put(event(0))
        await until(lambda: sink.status().detail)
        await sink.close(0)
        assert sink.status().dropped == {"closed": 1}


async def test_closing_while_connecting_leaves_no_connection_open(broker: ServerStarter) -> None:
    server = broker()
    async with opened(type="mqtt", url=f"mqtt://127.0.0.1:{server.port}") as sink:
        sink.put(event(0))
        await sink.close(0)
        assert sink.status().dropped == {"closed": 1}


async def test_refused_credentials_are_retried_and_never_shown(
    broker: ServerStarter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = broker("allow_anonymous false").port
    async with opened(type="mqtt", url=f"mqtt://me:hunter2@127.0.0.1:{port}") as sink:
        sink.put(event(0))
        await until(lambda: "Not authorized" in sink.status().detail)
        assert sink.status().waiting == 1
    assert "hunter2" not in sink.status().detail + caplog.text
