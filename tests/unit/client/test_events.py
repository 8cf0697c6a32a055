"""A client gets each event of a stream once and in order, even if connections fail."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.launch import free_port
from serve_app.client import ApiError, ConnectionFailed, FrameResult, MissedEvents, NotFoundError, StreamEvent, events
from serve_app.client.events import EventFeed, stream_event
from serve_app.schemas.streams import StateChange, ZoneChange
from tests.support.cutting_relay import cutting_relay
from tests.support.stream_server import StreamServer

CAMERA = {"id": "lot", "source": {"uri": "rtsp://camera/1"}}
WHOLE = 1 << 30  # more bytes than the response has, so the relay does not cut the response


def feed_of_lot() -> EventFeed[StreamEvent]:
    return EventFeed("/streams/lot/events", stream_event, None, None)


@pytest.fixture
def lot(served: StreamServer, monkeypatch: pytest.MonkeyPatch) -> StreamServer:
    monkeypatch.setattr(events, "_MIN_PAUSE_S", 0.01)
    served.http.post("/streams", json=CAMERA).raise_for_status()
    return served


def ids(following: Any, count: int) -> list[int]:
    return [event.event_id for event in itertools.islice(following, count)]


def test_an_event_has_its_type_and_data(client: Any, lot: StreamServer) -> None:
    lot.happen()
    (event,) = itertools.islice(client.streams.events("lot", after=-1), 1)
    assert isinstance(event, StreamEvent)
    assert (event.event_id, event.type, event.stream_id) == (0, "state", "lot")
    assert event.at_s == pytest.approx(time.time(), abs=60)
    assert event.data == StateChange(state="running", previous="starting", detail="")
    assert json.loads(event.json)["state"] == "running"


def test_only_the_requested_event_types_are_sent(client: Any, lot: StreamServer) -> None:
    lot.happen(2)
    change = ZoneChange(
        frame_id=7, captured_at_s=1, zone="dock", change="entered", track_id=3, label="cat", dwell_s=None
    )
    lot.do(lambda: lot.streams.logs["lot"].add("zone", change))
    for types in (["zone", "line"], "zone"):
        (event,) = itertools.islice(client.streams.events("lot", types, after=-1), 1)
        assert (event.event_id, event.data) == (2, change)
    with pytest.raises(ApiError, match="no event type is named 'cat'"):
        next(client.streams.events("lot", ["cat"]))


def test_no_event_is_lost_when_the_connection_is_cut_anywhere(connect: Any, lot: StreamServer) -> None:
    lot.happen(60)
    rng = random.Random(7)
    with cutting_relay(lot.port, (rng.randrange(300, 1200) for _ in itertools.count())) as relay:
        following = connect(f"http://127.0.0.1:{relay.port}").streams.events("lot", after=-1)
        assert ids(following, 60) == list(range(60))
        following.close()
    assert relay.connections > 10


def test_no_event_is_lost_when_the_connection_fails_before_the_first_one(connect: Any, lot: StreamServer) -> None:
    lot.happen(3)

    def cuts() -> Iterator[int | bytes]:
        yield b"id: 2\n\n"  # cut the connection after the first keep-alive
        lot.happen(2)  # these events happen while no client is connected
        yield WHOLE

    with cutting_relay(lot.port, cuts()) as relay:
        following = connect(f"http://127.0.0.1:{relay.port}").streams.events("lot")
        assert ids(following, 2) == [3, 4]
        following.close()


def test_the_client_waits_for_a_server_that_is_temporarily_unavailable(client: Any, lot: StreamServer) -> None:
    following = client.streams.events("lot", after=-1)
    lot.happen()
    assert ids(following, 1) == [0]
    lot.streams.outages = 2  # the first outage ends the response, and the second refuses the next connection

    def happen_after_outages() -> None:
        while lot.streams.outages:
            time.sleep(0.01)
        lot.happen(2)

    thread = threading.Thread(target=happen_after_outages)
    thread.start()
    assert ids(following, 2) == [1, 2]
    thread.join()


def test_events_that_are_no_longer_kept_are_reported_as_missed(client: Any, lot: StreamServer) -> None:
    lot.happen(600)
    following = client.streams.events("lot", after=0)
    missed = next(following)
    assert isinstance(missed, MissedEvents)
    assert (missed.missed, missed.type) == (87, "missed")
    assert ids(following, 512) == list(range(88, 600))


def test_following_ends_when_the_stream_is_deleted(client: Any, lot: StreamServer) -> None:
    following = client.streams.events("lot", after=-1)
    lot.happen()
    assert ids(following, 1) == [0]
    client.streams.delete("lot")
    with pytest.raises(NotFoundError, match="stream 'lot' does not exist"):
        next(following)
    with pytest.raises(NotFoundError):
        next(client.streams.events("nothing"))


def test_a_failed_first_connection_is_raised_at_once(connect: Any) -> None:
    with pytest.raises(ConnectionFailed, match="no server responds"):
        next(connect(f"http://127.0.0.1:{free_port()}").streams.events("lot"))


def test_closing_the_iterator_closes_its_connection(client: Any, lot: StreamServer) -> None:
    """The server admits at most 64 followers at a time, so open connections would make this test fail."""
    lot.happen()
    for _ in range(100):
        following = client.streams.events("lot", after=-1)
        assert ids(following, 1) == [0]
        following.close()


def test_pauses_grow_until_an_event_arrives_and_respect_retry_after() -> None:
    feed = feed_of_lot()
    pauses_s = [feed.pause_s(None) for _ in range(12)]
    assert 0.05 <= pauses_s[0] <= 0.1
    assert 2.5 <= pauses_s[-1] <= 5
    assert feed.pause_s(ApiError("the rate limit is exceeded", "rate_limited", 429, 30)) == 30
    list(feed.read(b'id: 1\nevent: new\ndata: {"event_id":1,"type":"new","stream_id":"lot","at_s":1}\n\n'))
    assert feed.pause_s(ConnectionFailed("the connection failed")) <= 0.1


def test_an_event_of_an_unknown_type_is_returned_as_json() -> None:
    body = {"event_id": 1, "type": "new", "stream_id": "lot", "at_s": 1, "more": 2}
    (event,) = feed_of_lot().read(f"event: new\ndata: {json.dumps(body)}\n\n".encode())
    assert isinstance(event, StreamEvent)
    assert event.data == body


def test_an_event_with_an_unknown_value_is_returned_as_json() -> None:
    body = {
        "event_id": 1, "type": "state", "stream_id": "lot", "at_s": 1,
        "state": "draining", "previous": "running", "detail": "",
    }  # fmt: skip
    (event,) = feed_of_lot().read(f"event: state\ndata: {json.dumps(body)}\n\n".encode())
    assert isinstance(event, StreamEvent)
    assert (event.event_id, event.type, event.data) == (1, "state", body)


@pytest.mark.parametrize(
    "data",
    [
        b"id: x\n\n",
        b"data: \xff\n\n",
        b"data: nothing\n\n",
        b"data: [1]\n\n",
        b'data: {"stream_id":"lot","at_s":1}\n\n',
        b'event: state\ndata: {"event_id":"x","stream_id":"lot","at_s":1}\n\n',
        b"event: missed\ndata: {}\n\n",
    ],
)
def test_an_invalid_event_is_an_error(data: bytes) -> None:
    with pytest.raises(ApiError, match=r"the response has an event .*; check the url") as error:
        list(feed_of_lot().read(data))
    assert error.value.code == "unexpected_answer"
    assert not error.value.is_retryable


def test_a_result_event_also_has_arrays() -> None:
    body = {
        "event_id": 1, "type": "result", "stream_id": "lot", "at_s": 1, "count": 1, "model": "fake", "batch_size": 1,
        "detections": [{"label": "cat", "class_id": 0, "confidence": 1, "bbox": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}}],
        "image": {"width": 4, "height": 3}, "frame_id": 7, "captured_at_s": 1, "age_s": 0.1,
        "timing_ms": {"decode": 1, "queue": 2, "inference": 3, "postprocess": 4, "total": 10},
    }  # fmt: skip
    (event,) = feed_of_lot().read(f"event: result\ndata: {json.dumps(body)}\n\n".encode())
    assert isinstance(event, StreamEvent)
    assert isinstance(event.data, FrameResult)
    assert event.data.xyxy.tolist() == [[1, 2, 3, 4]]
