"""Test the routes of streams through a real server, because several of their responses never end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from serve_app.api.events import _MAX_FOLLOWERS
from serve_app.errors import Overloaded
from serve_app.types import Snapshot
from tests.support.api import is_error
from tests.support.stream_server import StreamServer, serve_streams

SPEC = {"id": "lot", "source": {"uri": "rtsp://user:secret@camera/1"}}


@pytest.fixture
def served() -> Iterator[StreamServer]:
    with serve_streams() as served:
        yield served


@pytest.fixture
def lot(served: StreamServer) -> StreamServer:
    served.http.post("/streams", json=SPEC).raise_for_status()
    return served


def sse(lines: Iterator[str]) -> dict[str, str]:
    """Return the fields of the next event, or no fields for a comment."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            return fields
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
    raise EOFError


def next_event(lines: Iterator[str]) -> dict[str, str]:
    while "data" not in (event := sse(lines)):
        pass
    return event


def test_regions_with_the_same_name_are_refused_with_the_reason(lot: StreamServer) -> None:
    line = {"name": "gate", "start": [0, 0], "end": [1, 1]}
    refused = lot.http.put("/streams/lot/regions", json={"lines": [line, line]})
    assert is_error(refused, 422, "invalid_parameter")
    assert refused.json()["detail"] == "two zones or lines have the same name; rename one"
    bodies: list[Any] = [[], "gate", None]
    for body in bodies:
        refused = lot.http.put("/streams/lot/regions", json=body)
        assert "the body is not a JSON object" in refused.json()["detail"]


def test_a_stream_is_created_listed_inspected_and_deleted(served: StreamServer) -> None:
    created = served.http.post("/streams", json=SPEC)
    assert (created.status_code, created.headers["Location"]) == (201, "/streams/lot")
    assert "secret" not in created.text
    assert [stream["stream_id"] for stream in served.http.get("/streams").json()["streams"]] == ["lot"]
    assert served.http.get("/streams/lot").json() == created.json()
    assert served.http.delete("/streams/lot").status_code == 204
    assert is_error(served.http.get("/streams/lot"), 404, "not_found")


def test_a_stream_is_replaced_under_its_own_id(lot: StreamServer) -> None:
    yard = {"source": {"uri": "rtsp://camera/2"}}
    assert lot.http.put("/streams/lot", json=yard).json()["stream_id"] == "lot"
    assert lot.streams.specs["lot"].source.uri == "rtsp://camera/2"
    assert is_error(lot.http.put("/streams/lot", json=yard | {"id": "yard"}), 422, "invalid_parameter")
    assert is_error(lot.http.put("/streams/yard", json=yard), 404, "not_found")


def test_a_stream_is_paused_and_resumed(lot: StreamServer) -> None:
    assert lot.http.post("/streams/lot/pause").json()["state"] == "paused"
    assert lot.http.post("/streams/lot/resume").json()["state"] == "running"


def test_regions_are_read_and_written(lot: StreamServer) -> None:
    zone = {"name": "dock", "polygon": [[0, 0], [1, 0], [1, 1]], "labels": []}
    assert lot.http.put("/streams/lot/regions", json={"zones": [zone]}).status_code == 200
    assert lot.http.get("/streams/lot/regions").json() == {"zones": [zone], "lines": []}
    wrong = lot.http.put("/streams/lot/regions", json={"zones": [zone, zone]})
    assert is_error(wrong, 422, "invalid_parameter")


@pytest.mark.parametrize(
    "spec",
    [
        {"source": {"uri": "rtsp://user:secret@camera/1"}, "typo": 1},
        {"id": "../lot", "source": {"uri": "rtsp://user:secret@camera/1"}},
        {"source": {"uri": ["rtsp://user:secret@camera/1"]}},
        {"source": {"uri": "a.mp4"}, "sinks": [{"type": "mqtt", "url": "http://user:secret@broker"}]},
        {"source": {"uri": "a.mp4"}, "sinks": [{"type": "webhook", "url": "https://hook", "secret": "secret" * 99}]},
    ],
)
def test_a_refusal_does_not_quote_secrets(served: StreamServer, spec: dict[str, Any]) -> None:
    refused = served.http.post("/streams", json=spec)
    assert is_error(refused, 422, "invalid_parameter")
    assert "secretsecret" not in refused.text
    assert "user:secret" not in refused.text


def test_a_refusal_has_its_own_status(served: StreamServer) -> None:
    served.streams.failure = Overloaded("detector_capacity: the detectors are full", limit="detector_capacity")
    refused = served.http.post("/streams", json=SPEC)
    assert is_error(refused, 503, "overloaded", "detector_capacity")
    assert refused.headers["Retry-After"] == "1"


def test_before_the_first_frame_results_are_unavailable(lot: StreamServer) -> None:
    for path in ("detections", "frame.jpg"):
        assert is_error(lot.http.get(f"/streams/lot/{path}"), 503, "unavailable")


def test_the_newest_frame_is_returned_with_or_without_boxes(lot: StreamServer) -> None:
    lot.streams.shots = {"drawn": Snapshot(7, b"drawn"), "plain": Snapshot(7, b"plain")}
    drawn = lot.http.get("/streams/lot/frame.jpg")
    assert (drawn.content, drawn.headers["Content-Type"], drawn.headers["X-Frame-Id"]) == (b"drawn", "image/jpeg", "7")
    assert lot.http.get("/streams/lot/frame.jpg?boxes=false").content == b"plain"


def test_a_preview_shows_each_new_frame(lot: StreamServer) -> None:
    lot.streams.shots = {"drawn": Snapshot(1, b"first")}
    with lot.http.stream("GET", "/streams/lot/preview.mjpeg?max_fps=30") as response:
        assert response.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
        chunks = response.iter_bytes()
        assert b"X-Frame-Id: 1\r\n\r\nfirst\r\n" in next(chunks)
        lot.streams.shots = {"drawn": Snapshot(2, b"second")}
        seen = next(chunks)
        while b"X-Frame-Id: 2" not in seen:
            assert b"X-Frame-Id: 1" in seen  # the old frame is sent again until there is a newer frame
            seen = next(chunks)
        assert b"Content-Length: 6\r\n" in seen


def test_a_preview_without_a_frame_sends_keep_alives(lot: StreamServer) -> None:
    with lot.http.stream("GET", "/streams/lot/preview.mjpeg?max_fps=30") as response:
        chunks = response.iter_bytes()
        assert [set(next(chunks)), set(next(chunks))] == [set(b"\r\n")] * 2
        lot.streams.shots = {"drawn": Snapshot(1, b"first")}
        while not (seen := next(chunks)).strip():
            pass
        assert b"X-Frame-Id: 1\r\n\r\nfirst\r\n" in seen


@pytest.mark.parametrize("path", ["events", "preview.mjpeg", "frame.jpg", "detections", "regions"])
def test_an_unknown_stream_gets_404(served: StreamServer, path: str) -> None:
    assert is_error(served.http.get(f"/streams/nothing/{path}"), 404, "not_found")


def test_events_are_sent_as_they_happen(lot: StreamServer) -> None:
    with lot.http.stream("GET", "/streams/lot/events") as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        lines = response.iter_lines()
        sse(lines)  # the first comment shows that the connection is established
        lot.happen(2)
        first, second = next_event(lines), next_event(lines)
    assert (first["id"], second["id"], first["event"]) == ("0", "1", "state")
    assert json.loads(first["data"])["stream_id"] == "lot"


def test_a_browser_that_reconnects_continues_after_its_last_event(lot: StreamServer) -> None:
    lot.happen(5)
    with lot.http.stream("GET", "/streams/lot/events?after=0", headers={"Last-Event-ID": "2"}) as response:
        lines = response.iter_lines()
        assert [next_event(lines)["id"] for _ in range(2)] == ["3", "4"]


def test_a_client_gets_the_current_event_id_before_the_first_event(lot: StreamServer) -> None:
    with lot.http.stream("GET", "/streams/lot/events") as response:
        assert sse(response.iter_lines()) == {"id": "-1"}
    lot.happen(2)
    with lot.http.stream("GET", "/streams/lot/events", headers={"Last-Event-ID": "-1"}) as response:
        lines = response.iter_lines()
        assert [next_event(lines)["id"] for _ in range(2)] == ["0", "1"]


def test_events_that_are_no_longer_kept_are_reported_as_missed(lot: StreamServer) -> None:
    lot.happen(600)
    with lot.http.stream("GET", "/streams/lot/events?after=0") as response:
        missed = next_event(response.iter_lines())
    assert (missed["event"], json.loads(missed["data"])) == ("missed", {"missed": 87})


def test_only_the_requested_event_types_are_sent(lot: StreamServer) -> None:
    lot.happen()
    with lot.http.stream("GET", "/streams/lot/events?types=zone,line&after=0") as response:
        assert sse(response.iter_lines()) == {"id": "0"}
    assert is_error(lot.http.get("/streams/lot/events?types=zone,cat"), 422, "invalid_parameter")


def test_an_event_response_ends_when_its_stream_is_deleted(lot: StreamServer) -> None:
    with lot.http.stream("GET", "/streams/lot/events") as response:
        lines = response.iter_lines()
        sse(lines)
        lot.http.delete("/streams/lot")
        assert [line for line in lines if line.startswith("data")] == []


def test_a_websocket_gets_the_same_events(lot: StreamServer) -> None:
    lot.happen(2)
    with connect(f"ws://127.0.0.1:{lot.port}/streams/lot/events?types=state&after=0", proxy=None) as socket:
        assert json.loads(socket.recv(20))["event_id"] == 1
        lot.happen(1)
        assert json.loads(socket.recv(20))["event_id"] == 2


def test_a_websocket_is_closed_with_the_reason(lot: StreamServer) -> None:
    for path, code in (("nothing/events", 4404), ("lot/events?types=cat", 4422)):
        with connect(f"ws://127.0.0.1:{lot.port}/streams/{path}", proxy=None) as socket:
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(20)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == code


def test_followers_are_limited_and_count_until_they_disconnect(lot: StreamServer) -> None:
    sockets = [connect(f"ws://127.0.0.1:{lot.port}/streams/lot/events", proxy=None) for _ in range(_MAX_FOLLOWERS)]
    refused = lot.http.get("/streams/lot/events")
    assert is_error(refused, 503, "overloaded", "followers")
    for socket in sockets:
        socket.close()
    status_code = 503
    while status_code == 503:  # wait until the server notices the disconnections
        with lot.http.stream("GET", "/streams/lot/events") as response:
            status_code = response.status_code
    assert status_code == 200
