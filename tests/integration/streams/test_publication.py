"""Tests of the states that a running application publishes to a real MQTT broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Service, delete_stream, eventually, replicas, start_stream, stream_results
from tests.integration.sinks.conftest import ServerStarter, broker  # noqa: F401  # a fixture
from tests.integration.streams.conftest import kill
from tests.support.home_assistant import checked, value_of
from tests.support.mqtt import listening, retained, until_retained
from tests.support.sinks import until

pytestmark = pytest.mark.usefixtures("streams")

STATUS, STATE, PICTURE = "sightline/status", "sightline/streams/lot/state", "sightline/streams/lot/image"
EVERYWHERE = {"name": "all", "polygon": [(0, 0), (1, 0), (1, 1), (0, 1)]}
LONG_TIMEOUT_S = 180.0
NOTICED_WITHIN_S = 10.0


@pytest.fixture
def publishing(service: Service, broker: ServerStarter) -> Iterator[int]:  # noqa: F811
    """Deploy the application with a broker, and return the broker's port. Restore the application at the end."""
    port = broker().port
    service.deploy(service.args | {"mqtt": {"url": f"mqtt://127.0.0.1:{port}", "home_assistant": True}})
    yield port
    service.deploy()
    until_found(port, lambda found: found[STATUS] == b"offline")


def until_found(
    port: int, look: Callable[[dict[str, bytes]], object], within_s: float = LONG_TIMEOUT_S
) -> dict[str, bytes]:
    return asyncio.run(until_retained(port, look, within_s=within_s))


def state_in(found: dict[str, bytes]) -> dict[str, Any]:
    """Return the state of the stream ``lot``, or an empty dictionary."""
    state: dict[str, Any] = json.loads(found.get(STATE, b"{}"))
    return state


@pytest.mark.only_with_chaos  # sinks/test_publication publishes the same to a real broker without Ray
def test_a_running_stream_is_a_device_of_home_assistant_until_it_is_deleted(
    service: Service, publishing: int, video: Path
) -> None:
    start_stream(service.url, video, loop=True, zones=[EVERYWHERE])
    found = until_found(
        publishing, lambda found: state_in(found).get("counts") and PICTURE in found and state_in(found)["zones"]
    )
    (topic,) = (topic for topic in found if topic.startswith("homeassistant/"))
    names = {one["name"]: one for one in checked(topic, found[topic])["cmps"].values()}
    assert value_of(names["State"], found[STATE]) == "running"
    assert value_of(names["Objects"], found[STATE]) == "1"
    assert value_of(names["Occupancy"], found[STATE]) == "ON"
    inside = state_in(found)["zones"]["all"]["inside"]  # 0 before the tracker confirms an object; 2 after a repetition
    assert value_of(names["all: objects"], found[STATE]) == str(inside)
    assert found[PICTURE].startswith(b"\xff\xd8")
    delete_stream(service.url)
    assert until_found(publishing, lambda found: found == {STATUS: b"online"})


@pytest.mark.only_with_chaos  # local/test_mqtt kills the whole server
def test_a_killed_supervisor_is_offline_until_it_is_replaced(service: Service, publishing: int, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    until_found(publishing, lambda found: state_in(found).get("state") == "running")
    (supervisor,) = replicas("StreamSupervisor")

    async def statuses() -> list[bytes]:
        async with listening(publishing, STATUS) as received:
            await until(lambda: received)
            kill(supervisor)
            await until(lambda: len(received) >= 2, within_s=NOTICED_WITHIN_S)
            await until(lambda: len(received) >= 3, within_s=LONG_TIMEOUT_S)
            return [payload for _, payload in received]

    assert asyncio.run(statuses()) == [b"online", b"offline", b"online"]
    processed = stream_results(service.url, 1)[0].frame_id
    until_found(publishing, lambda found: state_in(found)["processed"] > processed)


@pytest.mark.only_with_chaos
def test_the_server_is_online_after_a_rolling_update(service: Service, publishing: int, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    until_found(publishing, lambda found: state_in(found).get("state") == "running")
    (before,) = replicas("StreamSupervisor")
    mqtt = {"url": f"mqtt://127.0.0.1:{publishing}", "home_assistant": False}
    service.deploy(service.args | {"mqtt": mqtt})
    eventually(lambda: before not in replicas("StreamSupervisor"), what="the end of the old supervisor")
    until_found(publishing, lambda found: found.keys() == {STATUS, STATE} and found[STATUS] == b"online")
    assert asyncio.run(retained(publishing))[STATUS] == b"online"
