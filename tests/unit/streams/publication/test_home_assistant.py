"""Tests of the descriptions for Home Assistant, which are checked against its documented rules."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import pytest

from serve_app.schemas.streams import LineCount, Regions, State, ZoneCount
from serve_app.streams.publication import home_assistant
from serve_app.streams.publication.messages import Topics, state_of
from serve_app.types import Json
from tests.support.home_assistant import checked, value_of
from tests.support.statuses import status_of

TOPICS = Topics("sightline")
# Names with characters that mean something in JSON, in Jinja or in MQTT topics.
NAMES = [
    "dock",
    'the "old" dock',
    "it's }} {{ 7 }}",
    "{% raw %}",
    "a/b+#",
    "a\\b",
    "línea",
    "出口",
    "🚪",
    "a\nb",
    "{{x}}",
]
SQUARE: list[tuple[float, float]] = [(0, 0), (1, 0), (1, 1)]


def regions(*names: str) -> Regions:
    """Return regions with a zone and a line for each name."""
    zones = [{"name": name, "polygon": SQUARE} for name in names]
    lines = [{"name": f"{name}-", "start": (0, 0), "end": (1, 1)} for name in names]
    return Regions.model_validate({"zones": zones, "lines": lines})


def described(stream_id: str = "lot", of: Regions | None = None, **removed: str) -> Json:
    """Return the checked description of a stream."""
    components = home_assistant.components_of(TOPICS, stream_id, of or Regions())
    device = home_assistant.device_of(TOPICS, stream_id, components, removed)
    return checked(home_assistant.discovery_topic(TOPICS, stream_id), json.dumps(device).encode())


def values(device: Json, state: Json) -> dict[str, str]:
    """Return the value of each entity by its name, as Home Assistant computes it from a state message."""
    payload = json.dumps(state).encode()
    return {one["name"]: value_of(one, payload) for one in device["cmps"].values() if "value_template" in one}


def test_a_description_obeys_the_rules_whatever_the_names_are() -> None:
    device = described(of=regions(*NAMES))
    assert len(device["cmps"]) == 6 + 3 * len(NAMES)
    assert device["availability_topic"] == "sightline/status"


@pytest.mark.parametrize("name", NAMES)
def test_templates_find_the_counts_of_a_zone_and_a_line_with_any_name(name: str) -> None:
    status = status_of(
        zones={name: ZoneCount(inside=2, entered=5, left=3, dwell_s={})},
        lines={f"{name}-": LineCount(crossed_in=7, crossed_out=4)},
    )
    found = values(described(of=regions(name)), state_of(status))
    assert (found[f"{name}: objects"], found[f"{name}-: in"], found[f"{name}-: out"]) == ("2", "7", "4")


def test_counts_that_are_not_known_yet_are_unknown_and_not_zero() -> None:
    """A total of zero would look like a meter that was reset, after which all earlier crossings count again."""
    found = values(described(of=regions("a")), state_of(status_of()))
    assert (found["a: objects"], found["a-: in"], found["a-: out"]) == ("None", "None", "None")


@pytest.mark.parametrize("state", get_args(State))
def test_every_state_is_an_option_and_only_the_bad_ones_are_problems(state: State) -> None:
    device = described()
    found = values(device, state_of(status_of(state=state)))
    assert found["State"] == state
    assert state in device["cmps"]["state"]["options"]
    assert (found["Problem"] == "ON") == (state in {"reconnecting", "stalled", "blocked", "failed"})


def test_objects_are_counted_and_named_while_the_stream_is_running() -> None:
    device, state = described(), state_of(status_of("car", "car", "person"))
    found = values(device, state)
    assert (found["Objects"], found["Occupancy"]) == ("3", "ON")
    payload = json.dumps(state).encode()
    attributes = value_of(device["cmps"]["objects"], payload, "json_attributes_template")
    assert json.loads(attributes) == {"car": 2, "person": 1}
    assert values(device, state_of(status_of()))["Occupancy"] == "OFF"


def test_the_last_counts_of_a_stream_that_is_not_running_are_unknown() -> None:
    found = values(described(), state_of(status_of("car", state="reconnecting")))
    assert (found["Objects"], found["Occupancy"]) == ("None", "None")


def test_the_scene_health_is_shown_as_soon_as_the_status_has_it() -> None:
    device, state = described(), state_of(status_of())
    assert values(device, state)["Scene"] == "None"
    assert values(device, state | {"scene_health": None})["Scene"] == "None"
    state |= {"scene_health": {"state": "covered", "since_at_s": 1.0, "detail": "most of the view is hidden"}}
    assert values(device, state)["Scene"] == "covered"
    attributes = value_of(device["cmps"]["scene"], json.dumps(state).encode(), "json_attributes_template")
    assert json.loads(attributes) == {"detail": "most of the view is hidden"}


def test_the_last_picture_is_an_image() -> None:
    image = described()["cmps"]["image"]
    assert (image["p"], image["image_topic"]) == ("image", "sightline/streams/lot/image")


def test_a_removed_component_has_nothing_but_its_platform() -> None:
    assert described(zone_1="sensor")["cmps"]["zone_1"] == {"p": "sensor"}


def test_no_two_streams_or_servers_share_an_id() -> None:
    pairs = [("a", "b_c"), ("a_b", "c"), ("a/b", "c"), ("a-b", "c"), ("a", "b-c"), ("a", "b"), ("a/b", "b")]
    topics = [home_assistant.discovery_topic(Topics(prefix), stream_id) for prefix, stream_id in pairs]
    assert len(set(topics)) == len(pairs)
    assert all(re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic) for topic in topics)


def test_a_server_recognises_its_own_descriptions() -> None:
    own = home_assistant.discovery_topic(Topics("a"), "b")
    assert home_assistant.is_discovery_topic(Topics("a"), own)
    assert not home_assistant.is_discovery_topic(Topics("a_b"), own)
    assert not home_assistant.is_discovery_topic(Topics("a"), "homeassistant/device/0x00124b0022/config")


@pytest.mark.parametrize(
    "broken",
    [
        {"o": None},
        {"cmps": {"a b": {"p": "sensor"}}},
        {"cmps": {"a": {"p": "sensor", "unique_id": "a", "name": "a"}}},
        {"cmps": {"a": {"p": "sensor", "name": "a", "state_topic": "a"}}},
        {"cmps": {"a": {"p": "sensor", "unique_id": "a", "name": "a", "state_topic": "a/+"}}},
        {"cmps": {key: {"p": "sensor", "unique_id": "a", "name": key, "state_topic": "a"} for key in "ab"}},
    ],
)
def test_the_rules_find_a_broken_description(broken: dict[str, Any]) -> None:
    device = {key: value for key, value in (described() | broken).items() if value is not None}
    with pytest.raises((AssertionError, KeyError)):
        checked(home_assistant.discovery_topic(TOPICS, "lot"), json.dumps(device).encode())
