"""Tests of the Redis sink with a real Redis that is slow, unreachable, killed or restarted."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import redis

from tests.integration.sinks.conftest import QUEUE_SIZE, ServerStarter, entries, has_sent, opened, put
from tests.support.sinks import event, until

pytestmark = pytest.mark.anyio


async def test_events_are_entries_of_a_redis_stream(redis_server: ServerStarter) -> None:
    port = redis_server().port
    async with opened(type="redis", url=f"redis://127.0.0.1:{port}/0", key="a:{stream_id}:{type}") as sink:
        put(sink, range(250))
        sink.put(event(250, "line"))
        await sink.close(60)
        assert sink.status().sent == 251
    assert entries(port, "a:lot:result") == list(range(250))
    assert entries(port, "a:lot:line") == [250]


async def test_a_redis_stream_is_trimmed(redis_server: ServerStarter) -> None:
    port = redis_server().port
    async with opened(type="redis", url=f"redis://127.0.0.1:{port}", max_length=100) as sink:
        put(sink, range(1000))
        await sink.close(60)
    kept = entries(port)
    assert 100 <= len(kept) < 300  # Redis trims a stream only by whole blocks of up to 100 entries
    assert kept == list(range(1000))[-len(kept) :]


async def test_events_queued_while_redis_was_down_arrive_when_it_is_back(
    redis_server: ServerStarter,
) -> None:
    server = redis_server()
    async with opened(type="redis", url=f"redis://127.0.0.1:{server.port}") as sink:
        for times in range(3):
            sink.put(event(100 * times))
            await until(partial(has_sent, sink, 100 * times + 1))
            server.kill()
            put(sink, range(100 * times + 1, 100 * times + 100))
            await until(lambda: sink.status().detail.startswith("the server cannot be reached"))
            server.start()
            await until(partial(has_sent, sink, 100 * times + 100))
            assert sink.status().detail == ""
    assert entries(server.port) == list(range(300))


async def test_a_frozen_redis_does_not_slow_the_stream(redis_server: ServerStarter) -> None:
    server = redis_server()
    async with opened(type="redis", url=f"redis://127.0.0.1:{server.port}") as sink:
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
    arrived = entries(server.port)
    assert arrived[:1] + arrived[-QUEUE_SIZE:] == [0, *range(12, QUEUE_SIZE + 12)]
    # Event 1 may arrive twice, because the frozen server had already received it.
    assert set(arrived[1:-QUEUE_SIZE]) == {1}


async def test_a_redis_password_is_used_and_never_shown(
    redis_server: ServerStarter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = redis_server("--requirepass", "hunter:2").port
    async with opened(type="redis", url=f"redis://:hunter%3A2@127.0.0.1:{port}") as sink:
        sink.put(event(0))
        await sink.close(60)
        assert sink.status().sent == 1
    async with opened(type="redis", url=f"redis://:hunter3@127.0.0.1:{port}") as sink:
        sink.put(event(1))
        await until(lambda: "refused the credentials" in sink.status().detail)
        assert "hunter" not in repr(sink.status()) + caplog.text
    assert entries(port, password="hunter:2") == [0]


async def test_a_password_repeated_by_the_server_is_not_shown(
    redis_server: ServerStarter,
) -> None:
    port = redis_server("--rename-command", "AUTH", "").port
    async with opened(type="redis", url=f"redis://me:hunter2@127.0.0.1:{port}") as sink:
        sink.put(event(0))
        await until(lambda: sink.status().detail)
        assert "hunter2" not in sink.status().detail


async def test_events_for_a_key_of_another_type_are_dropped(redis_server: ServerStarter) -> None:
    port = redis_server().port
    with redis.Redis(port=port) as client:
        client.set("taken", "by a string")
    async with opened(type="redis", url=f"redis://127.0.0.1:{port}", key="taken") as sink:
        put(sink, range(3))
        await until(lambda: sink.status().dropped)
        assert (sink.status().dropped, sink.status().detail) == ({"refused": 3}, "the server answered WRONGTYPE")


async def test_the_sink_waits_while_redis_is_full(redis_server: ServerStarter) -> None:
    port = redis_server("--maxmemory", "1").port
    async with opened(type="redis", url=f"redis://127.0.0.1:{port}") as sink:
        put(sink, range(3))
        await until(lambda: sink.status().detail == "the server answered OutOfMemoryError")
        with redis.Redis(port=port) as client:
            client.config_set("maxmemory", 0)
        await until(lambda: sink.status().sent == 3)
    assert entries(port) == [0, 1, 2]
