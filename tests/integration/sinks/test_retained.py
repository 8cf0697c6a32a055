"""Tests of retained messages and of the server's status, with a real broker and with processes that are killed."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from scripts.trials.relay import Relay
from serve_app.sinks.retained import Outcome, RetainedMessages
from tests.integration.sinks.conftest import ServerStarter
from tests.support.mqtt import STATUS, listening, new_messages, publish, retained, until_retained
from tests.support.paths import ROOT
from tests.support.sinks import until

pytestmark = pytest.mark.anyio

NOTICED_WITHIN_S = 10.0  # the broker says within this time that a server has died


@asynccontextmanager
async def kept(port: int, **options: object) -> AsyncIterator[RetainedMessages]:
    """Keep messages at a broker, and close them at the end."""
    messages = new_messages(port, **options)  # type: ignore[arg-type]
    messages.start()
    try:
        yield messages
    finally:
        await messages.close()


async def test_a_broker_retains_the_last_message_of_each_topic(broker: ServerStarter) -> None:
    port = broker().port
    outcomes: Counter[Outcome] = Counter()
    async with kept(port, count=lambda outcome: outcomes.update([outcome])) as messages:
        for number in range(50):
            messages.put("test/own/a", str(number).encode())
        messages.put("test/own/b", b"1")
        expected = {STATUS: b"online", "test/own/a": b"49", "test/own/b": b"1"}
        await until_retained(port, lambda found: found == expected)
        messages.put("test/own/b", b"1")
        messages.remove("test/own/a")
        messages.remove("test/own/unknown")
        await until_retained(port, lambda found: found == {STATUS: b"online", "test/own/b": b"1"})
    assert await retained(port) == {STATUS: b"offline", "test/own/b": b"1"}
    assert outcomes == {"sent": 4, "superseded": 49}


async def test_many_messages_are_sent_in_several_batches(broker: ServerStarter) -> None:
    port = broker().port
    async with kept(port) as messages:
        for number in range(300):
            messages.put(f"test/own/{number}", bytes(1000))
        await until_retained(port, lambda found: len(found) == 301)


async def test_everything_is_there_again_after_the_broker_has_lost_it(
    broker: ServerStarter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = broker()
    outcomes: Counter[Outcome] = Counter()
    async with kept(server.port, count=lambda outcome: outcomes.update([outcome])) as messages:
        messages.put("test/own/a", b"1")
        messages.put("test/own/gone", b"1")
        await until_retained(server.port, lambda found: len(found) == 3)
        server.kill()
        await until(lambda: outcomes["failed"] >= 2)
        messages.put("test/own/a", b"2")
        messages.put("test/own/a", b"3")
        messages.remove("test/own/gone")
        assert outcomes["superseded"] == 1
        server.start()
        await until_retained(server.port, lambda found: found == {STATUS: b"online", "test/own/a": b"3"})
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"mqtt: mqtt://127.0.0.1:{server.port}: the broker cannot be reached: ")
    assert f"mqtt: mqtt://127.0.0.1:{server.port} works again" in caplog.text


async def test_messages_that_an_earlier_process_has_left_are_removed_and_no_others(broker: ServerStarter) -> None:
    port = broker().port
    others = {"test/another/config": b"1", "other/own/a": b"1"}
    for topic, payload in {**others, "test/own/a": b"old", "test/own/deleted": b"old"}.items():
        await publish(port, topic, payload, retain=True)
    messages = new_messages(port)
    messages.put("test/own/a", b"new")
    messages.start()
    expected = others | {STATUS: b"online", "test/own/a": b"new"}
    await until_retained(port, lambda found: found == expected)
    await messages.close()


@pytest.fixture
def start_process() -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    """Return a function that starts a process which keeps messages at the broker with this port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-m", "tests.support.mqtt", str(port)], cwd=ROOT))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_broker_says_that_a_killed_or_frozen_server_is_offline(
    number: signal.Signals, broker: ServerStarter, start_process: Callable[[int], subprocess.Popen[bytes]]
) -> None:
    port = broker().port
    process = start_process(port)
    await until_retained(port, lambda found: found == {STATUS: b"online", "test/own/a": b"1"})
    process.send_signal(number)
    found = await until_retained(port, lambda found: found[STATUS] == b"offline", within_s=NOTICED_WITHIN_S)
    assert found["test/own/a"] == b"1"


async def test_the_broker_says_that_a_server_behind_a_broken_cable_is_offline(broker: ServerStarter) -> None:
    port = broker().port
    with Relay(port) as cable:
        async with kept(cable.port):
            await until_retained(port, lambda found: found.get(STATUS) == b"online")
            cable.freeze()
            await until_retained(port, lambda found: found[STATUS] == b"offline", within_s=NOTICED_WITHIN_S)
            cable.unplug()
            cable.thaw()
            cable.plug()
            await until_retained(port, lambda found: found[STATUS] == b"online")


async def test_a_server_that_ends_does_not_make_its_successor_offline(broker: ServerStarter) -> None:
    port = broker().port
    before = new_messages(port)
    before.start()
    await until_retained(port, lambda found: found.get(STATUS) == b"online")
    async with kept(port) as after, listening(port, STATUS) as statuses:
        after.put("test/own/a", b"1")
        await until_retained(port, lambda found: "test/own/a" in found)
        await before.close()
        await until(lambda: (STATUS, b"offline") in statuses)
        await until(lambda: statuses[-1] == (STATUS, b"online"))
        assert (await retained(port))[STATUS] == b"online"


async def test_a_last_will_that_comes_late_does_not_make_the_successor_offline(broker: ServerStarter) -> None:
    port = broker().port
    with Relay(port) as cable:
        async with kept(cable.port):
            await until_retained(port, lambda found: found.get(STATUS) == b"online")
            cable.freeze()
            async with kept(port), listening(port, STATUS) as statuses:
                await until(lambda: (STATUS, b"offline") in statuses)
                await until(lambda: statuses[-1] == (STATUS, b"online"))
                assert (await retained(port))[STATUS] == b"online"
            cable.unplug()
            cable.thaw()


async def test_messages_to_watched_topics_are_handed_over_unless_they_are_old(broker: ServerStarter) -> None:
    port = broker().port
    await publish(port, "homeassistant/status", b"online", retain=True)
    received: list[bytes] = []
    async with kept(port, watched={"homeassistant/status": received.append}) as messages:
        messages.put("test/own/a", b"1")
        await until_retained(port, lambda found: "test/own/a" in found)
        await publish(port, "homeassistant/status", b"offline")
        await until(lambda: received)
    assert received == [b"offline"]


async def test_refused_credentials_are_retried_and_never_shown(
    broker: ServerStarter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = broker("allow_anonymous false").port
    outcomes: Counter[Outcome] = Counter()
    async with kept(port, login="me:hunter2@", count=lambda outcome: outcomes.update([outcome])):
        await until(lambda: outcomes["failed"] >= 2)
    assert "Not authorized" in caplog.text
    assert "hunter2" not in caplog.text


async def test_closing_while_a_frozen_broker_does_not_answer_leaves_no_connection_open(broker: ServerStarter) -> None:
    server = broker()
    server.freeze()
    messages = new_messages(server.port)
    messages.start()
    await messages.close()
