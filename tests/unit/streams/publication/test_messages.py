"""Tests of the topics and of the message about a stream's state."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.schemas.sinks import SinkStatus
from serve_app.schemas.streams import StreamStatus, ZoneCount
from serve_app.streams.publication.messages import Topics, significant, state_of
from tests.support.statuses import status_of


def test_a_message_has_the_counts_of_each_class_in_the_latest_frame() -> None:
    message = state_of(status_of("person", "car", "car"))
    assert (message["count"], message["counts"]) == (3, {"car": 2, "person": 1})
    assert message["counted_at_s"] == 1_700_000_000.5
    assert "latest" not in message


def test_a_stream_without_a_result_has_no_counts() -> None:
    message = state_of(status_of(latest=None, state="starting"))
    assert (message["count"], message["counts"], message["counted_at_s"]) == (0, {}, None)


def test_every_other_field_of_the_status_is_in_the_message() -> None:
    """A field that is added to the status later is published without a change of the message."""
    message = state_of(status_of(label="open"))
    assert StreamStatus.model_fields.keys() - {"latest"} <= message.keys()
    assert json.loads(json.dumps(message)) == message


def test_a_zone_has_its_counts_but_not_the_time_of_each_object() -> None:
    zone = ZoneCount(inside=1, entered=3, left=2, dwell_s={7: 1.25})
    assert state_of(status_of(zones={"dock": zone}))["zones"] == {"dock": {"inside": 1, "entered": 3, "left": 2}}


SINK = SinkStatus(type="mqtt", target="mqtt://host", sent=1, waiting=0, dropped={}, detail="")


@pytest.mark.parametrize(
    ("change", "is_significant"),
    [
        ({"state": "stalled"}, True),
        ({"detail": "the source has sent nothing for 3 s"}, True),
        ({"zones": {"dock": ZoneCount(inside=1, entered=1, left=0, dwell_s={})}}, True),
        ({"latest": None}, True),
        ({"restarts": 1}, True),
        ({"uptime_s": 9.0}, False),
        ({"captured": 9, "processed": 8, "dropped": {"overrun": 1}}, False),
        ({"camera_fps": 9.5, "processed_fps": 9.0}, False),
        ({"sinks": [SINK]}, False),
    ],
)
def test_only_what_is_not_a_figure_is_worth_a_message_of_its_own(change: dict[str, Any], is_significant: bool) -> None:
    before, after = state_of(status_of("car")), state_of(status_of("car", **change))
    assert after != before
    assert (significant(after) != significant(before)) == is_significant


def test_a_server_recognises_its_own_topics() -> None:
    topics = Topics("site/sightline")
    assert topics.status == "site/sightline/status"
    assert topics.contains(topics.state("lot"))
    assert topics.contains(topics.picture("lot"))
    assert not topics.contains("site/sightline/streams/lot/other")
    assert not topics.contains("sightline/streams/lot/state")
    assert not Topics("a.b").contains("axb/streams/lot/state")
