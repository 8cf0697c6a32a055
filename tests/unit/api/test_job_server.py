"""Test the routes of jobs through a real server: responses without an end, and bodies that arrive slowly."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.api import is_error
from tests.support.stream_server import StreamServer, serve_streams

JOB = {"id": "night", "source": {"type": "files", "path": "night"}}


@pytest.fixture(scope="module")
def server() -> Iterator[StreamServer]:
    with serve_streams() as served:
        yield served


@pytest.fixture
def served(server: StreamServer) -> StreamServer:
    for job_id in list(server.jobs.specs):
        server.http.delete(f"/jobs/{job_id}").raise_for_status()
    server.jobs.logs.clear()
    server.http.post("/jobs", json=JOB).raise_for_status()
    return server


def test_events_are_sent_as_they_happen(served: StreamServer) -> None:
    with served.http.stream("GET", "/jobs/night/events?types=state") as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = response.iter_lines()
        assert next(lines) == ": nothing new"
        served.do(lambda: served.jobs.set_state("night", "running"))
        data = next(line for line in lines if line.startswith("data: "))
        assert json.loads(data[6:])["state"] == "running"


def test_a_client_that_reconnects_continues_after_its_last_event(served: StreamServer) -> None:
    for state in ("running", "completed"):
        served.jobs.set_state("night", state)
    with served.http.stream("GET", "/jobs/night/events", headers={"Last-Event-ID": "0"}) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        assert [json.loads(next(lines)[6:])["state"] for _ in range(2)] == ["running", "completed"]
    assert is_error(served.http.get("/jobs/night/events?types=zone"), 422, "invalid_parameter")
    assert is_error(served.http.get("/jobs/nothing/events"), 404, "not_found")


def test_a_websocket_gets_the_same_events(served: StreamServer) -> None:
    with connect(f"ws://127.0.0.1:{served.port}/jobs/night/events?after=-1", proxy=None) as follower:
        assert json.loads(follower.recv(20))["state"] == "queued"
        served.do(lambda: served.jobs.set_state("night", "running"))
        assert json.loads(follower.recv(20))["state"] == "running"
    with connect(f"ws://127.0.0.1:{served.port}/jobs/nothing/events", proxy=None) as follower:
        with pytest.raises(ConnectionClosed) as closed:
            follower.recv(20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4404


def begin(served: StreamServer, head: str, body: bytes) -> socket.socket:
    """Send the beginning of a request, and return its open connection."""
    connection = socket.create_connection(("127.0.0.1", served.port), 20)
    connection.sendall(f"{head}\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n".encode() + body)
    return connection


def wait_until(served: StreamServer, look: Callable[[], bool]) -> None:
    """Send requests until ``look`` returns True. Fail after a minute."""
    deadline_s = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline_s
        served.http.get("/health").raise_for_status()


def test_a_file_is_passed_on_while_it_arrives(served: StreamServer) -> None:
    served.http.post("/jobs", json={"id": "up", "source": {"type": "upload"}}).raise_for_status()
    with begin(served, "PUT /jobs/up/files/a HTTP/1.1", b"1" * 3_000_000):
        # Most of the body is missing.
        wait_until(served, lambda: len(served.jobs.uploads["up"].get("a", b"")) >= 2 * 2**20)


def test_a_form_whose_client_disconnects_leaves_no_job(served: StreamServer) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + b"1" * 3_000_000
    head = "POST /jobs HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x"
    connection = begin(served, head, part)
    wait_until(served, lambda: len(served.jobs.specs) == 2)
    connection.close()
    wait_until(served, lambda: list(served.jobs.specs) == ["night"])
