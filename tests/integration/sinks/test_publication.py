"""Tests of the publication of streams' states at a real broker. The streams' processes are fakes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from serve_app.config import MqttArgs
from serve_app.images.drawing import encode_jpeg
from serve_app.images.opencv import decode_with_opencv
from serve_app.schemas.streams import Regions
from serve_app.streams.publication.publication import StreamPublication
from serve_app.streams.registry import SUPERVISOR
from serve_app.streams.supervision import Supervision
from tests.integration.sinks.conftest import ServerStarter
from tests.support.fake_workers import FakeWorker, FakeWorkers, spec_of, supervising
from tests.support.home_assistant import checked, value_of
from tests.support.mqtt import listening, publish, retained, until_retained
from tests.support.sinks import until

pytestmark = pytest.mark.anyio

STATE, PICTURE = "sightline/streams/lot/state", "sightline/streams/lot/image"
ZONE = {"name": "dock", "polygon": [(0, 0), (1, 0), (1, 1)]}
LINE = {"name": "gate", "start": (0, 0), "end": (1, 1)}
FRAME = encode_jpeg(np.zeros((1080, 1920, 3), np.uint8))


def workers() -> FakeWorkers:
    """Return fake workers whose frames have 1920×1080 pixels."""

    def prepare(worker: FakeWorker) -> None:
        worker.picture = FRAME

    return FakeWorkers(prepare)


@asynccontextmanager
async def publishing(port: int, folder: Path, **args: Any) -> AsyncIterator[Supervision]:
    """Supervise the streams in a folder, and publish their states."""
    settings = MqttArgs(url=SecretStr(f"mqtt://127.0.0.1:{port}"), **args)
    async with supervising(folder, workers()) as supervision:
        publication = StreamPublication(settings, supervision, lambda outcome: None)
        try:
            yield supervision
        finally:
            await publication.close()


def device_topic(found: dict[str, bytes]) -> str:
    """Return the topic of the only description."""
    (topic,) = (topic for topic in found if topic.startswith("homeassistant/device/"))
    return topic


def has_state(state: str, topic: str = STATE) -> Callable[[dict[str, bytes]], bool]:
    return lambda found: topic in found and json.loads(found[topic])["state"] == state


async def test_a_streams_state_is_published_at_each_change_and_removed_with_the_stream(
    broker: ServerStarter, tmp_path: Path
) -> None:
    port = broker().port
    async with publishing(port, tmp_path) as supervision:
        await supervision.create(spec_of("lot", tags={"site": "north"}), SUPERVISOR)
        found = await until_retained(port, has_state("running"))
        assert found.keys() == {STATE, "sightline/status"}
        state = json.loads(found[STATE])
        assert (state["stream_id"], state["count"], state["zones"]) == ("lot", 0, {})
        await supervision.pause("lot", SUPERVISOR)
        await until_retained(port, has_state("paused"))
        await supervision.delete("lot", SUPERVISOR)
        await until_retained(port, lambda found: found == {"sightline/status": b"online"})
    assert await retained(port) == {"sightline/status": b"offline"}


async def test_home_assistant_gets_a_device_for_each_stream(broker: ServerStarter, tmp_path: Path) -> None:
    port = broker().port
    async with publishing(port, tmp_path, home_assistant=True) as supervision:
        await supervision.create(spec_of("lot", zones=[ZONE], lines=[LINE]), SUPERVISOR)
        found = await until_retained(port, lambda found: has_state("running")(found) and PICTURE in found)
        topic = device_topic(found)
        device = checked(topic, found[topic])
        assert device["dev"]["name"] == "lot"
        by_name = {component["name"]: component for component in device["cmps"].values()}
        assert {"State", "Problem", "dock: objects", "gate: in", "gate: out", "Last picture"} <= by_name.keys()
        assert value_of(by_name["State"], found[STATE]) == "running"
        assert by_name["Last picture"]["image_topic"] == PICTURE
        height_px, width_px = decode_with_opencv(found[PICTURE]).shape[:2]
        assert (height_px, width_px) == (540, 960)
        await supervision.delete("lot", SUPERVISOR)
        await until_retained(port, lambda found: found == {"sightline/status": b"online"})


async def test_a_zone_that_is_deleted_is_removed_from_home_assistant(broker: ServerStarter, tmp_path: Path) -> None:
    port = broker().port
    async with publishing(port, tmp_path, home_assistant=True) as supervision:
        await supervision.create(spec_of("lot", zones=[ZONE]), SUPERVISOR)
        topic = device_topic(await until_retained(port, has_state("running")))
        before = checked(topic, (await retained(port))[topic])
        (key,) = (key for key in before["cmps"] if key.startswith("zone_"))
        await supervision.set_regions("lot", SUPERVISOR, Regions.model_validate({"lines": [LINE]}))
        found = await until_retained(port, lambda found: b"gate: in" in found[topic])
        assert checked(topic, found[topic])["cmps"][key] == {"p": "sensor"}
        await supervision.set_regions("lot", SUPERVISOR, Regions.model_validate({"zones": [ZONE]}))
        found = await until_retained(port, lambda found: b"dock: objects" in found[topic])
        assert checked(topic, found[topic])["cmps"][key] == before["cmps"][key]


async def test_everything_is_described_again_when_home_assistant_starts(broker: ServerStarter, tmp_path: Path) -> None:
    port = broker().port
    async with publishing(port, tmp_path, home_assistant=True) as supervision:
        await supervision.create(spec_of("lot"), SUPERVISOR)
        topic = device_topic(await until_retained(port, has_state("running")))
        async with listening(port, topic) as received:
            await until(lambda: len(received) == 1)  # the retained message
            await publish(port, "homeassistant/status", b"offline")
            await publish(port, "homeassistant/status", b"online")
            await until(lambda: len(received) == 2)
            assert received[1] == received[0]


async def test_what_the_broker_has_lost_is_published_again(broker: ServerStarter, tmp_path: Path) -> None:
    server = broker()
    async with publishing(server.port, tmp_path, home_assistant=True) as supervision:
        await supervision.create(spec_of("lot"), SUPERVISOR)
        before = await until_retained(server.port, lambda found: len(found) == 4)
        server.kill()
        server.start()
        await until_retained(server.port, lambda found: found.keys() == before.keys())


async def test_a_stream_that_was_deleted_while_nothing_was_published_is_removed_later(
    broker: ServerStarter, tmp_path: Path
) -> None:
    port = broker().port
    async with publishing(port, tmp_path, home_assistant=True) as supervision:
        for stream_id in ("lot", "gate"):
            await supervision.create(spec_of(stream_id), SUPERVISOR)
        await until_retained(port, lambda found: len(found) == 7)
    await publish(port, "homeassistant/device/another/config", b"{}", retain=True)
    async with supervising(tmp_path, workers()) as supervision:
        await supervision.delete("lot", SUPERVISOR)
    async with publishing(port, tmp_path) as supervision:  # without Home Assistant, whose messages are removed, too
        await until_retained(
            port,
            lambda found: (
                found.keys()
                == {"sightline/status", "sightline/streams/gate/state", "homeassistant/device/another/config"}
            ),
        )


async def test_a_stream_of_a_second_server_with_another_topic_is_left_alone(
    broker: ServerStarter, tmp_path: Path
) -> None:
    port = broker().port
    async with (
        publishing(port, tmp_path / "a", home_assistant=True) as one,
        publishing(port, tmp_path / "b", topic="site/b", home_assistant=True) as other,
    ):
        await one.create(spec_of("lot"), SUPERVISOR)
        await other.create(spec_of("lot"), SUPERVISOR)
        await until_retained(port, lambda found: len(found) == 8)
        await one.delete("lot", SUPERVISOR)
        found = await until_retained(port, lambda found: STATE not in found and len(found) == 5)
        assert {"site/b/status", "site/b/streams/lot/state", "site/b/streams/lot/image"} <= found.keys()


async def test_a_successor_is_online_although_its_predecessor_ends_after_its_start(
    broker: ServerStarter, tmp_path: Path
) -> None:
    """The successor publishes nothing before the predecessor has unlocked the store of streams."""
    port = broker().port
    async with AsyncExitStack() as first:
        supervision = await first.enter_async_context(publishing(port, tmp_path))
        await supervision.create(spec_of("lot"), SUPERVISOR)
        await until_retained(port, has_state("running"))
        async with publishing(port, tmp_path), listening(port, "sightline/status") as statuses:
            await first.aclose()
            await until(lambda: [payload for _, payload in statuses] == [b"online", b"offline", b"online"])
            await until_retained(port, has_state("running"))
