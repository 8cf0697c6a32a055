"""The WebSocket ``/streams/previews``, through a real server."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from serve_app.api import previews
from serve_app.schemas.previews import Watch
from serve_app.schemas.streams import StreamSpec
from serve_app.types import Snapshot
from tests.support.api import STREAM, Keys, served_with, until
from tests.support.fakes import FakeStreams
from tests.support.principals import LOCAL
from tests.support.stream_server import StreamServer, serve_streams

pytestmark = pytest.mark.anyio

DRAWN, PLAIN = Snapshot(7, b"drawn", 1.5), Snapshot(7, b"plain", 1.5)


@pytest.fixture(scope="module")
def shared() -> Iterator[StreamServer]:
    with serve_streams() as served:
        for name in ("lot", "yard"):
            served.http.post("/streams", json=STREAM | {"id": name}).raise_for_status()
        yield served


@pytest.fixture
def served(shared: StreamServer) -> StreamServer:
    shared.streams.shots = {"drawn": DRAWN, "plain": PLAIN}
    return shared


def open_socket(served: StreamServer, **options: Any) -> ClientConnection:
    socket: ClientConnection = connect(f"ws://127.0.0.1:{served.port}/streams/previews", proxy=None, **options)
    return socket


def watch(socket: ClientConnection, *streams: str, **fields: Any) -> None:
    socket.send(json.dumps({"streams": streams} | fields))


def receive(socket: ClientConnection) -> tuple[dict[str, Any], bytes]:
    """Return the header and the image of the next frame, or an error and no image."""
    message = socket.recv(timeout=60)
    if isinstance(message, str):
        return json.loads(message), b""
    (length,) = struct.unpack(">I", message[:4])
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def test_each_frame_is_a_header_and_a_jpeg(served: StreamServer) -> None:
    with open_socket(served) as socket:
        watch(socket, "lot")
        assert receive(socket) == ({"stream_id": "lot", "frame_id": 7, "captured_at_s": 1.5}, b"drawn")
        served.streams.shots = {"drawn": Snapshot(8, b"newer", 2.5)}
        assert receive(socket) == ({"stream_id": "lot", "frame_id": 8, "captured_at_s": 2.5}, b"newer")


def test_a_client_may_change_what_it_watches(served: StreamServer) -> None:
    with open_socket(served) as socket:
        watch(socket, "lot")
        assert receive(socket)[0]["stream_id"] == "lot"
        watch(socket, "yard", boxes=False)
        assert receive(socket) == ({"stream_id": "yard", "frame_id": 7, "captured_at_s": 1.5}, b"plain")
        watch(socket)
        served.streams.shots = {"drawn": Snapshot(9, b"x"), "plain": Snapshot(9, b"x")}
        watch(socket, "lot")
        assert receive(socket)[0] == {"stream_id": "lot", "frame_id": 9, "captured_at_s": 0.0}


def test_an_unknown_stream_does_not_end_the_others(served: StreamServer) -> None:
    with open_socket(served) as socket:
        watch(socket, "lot", "none")
        found = [receive(socket) for _ in range(2)]
    (error,) = [header for header, jpeg in found if not jpeg]
    assert (error["stream_id"], error["code"]) == ("none", "not_found")
    assert any(jpeg == b"drawn" for _, jpeg in found)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "[]",
        "{}",
        '{"streams": "lot"}',
        '{"streams": ["../lot"]}',
        '{"streams": [], "max_fps": 0}',
        '{"streams": [], "max_fps": 5.1}',
        '{"streams": [], "max_fps": NaN}',
        '{"streams": [], "typo": 1}',
        json.dumps({"streams": [f"s{number}" for number in range(65)]}),
        json.dumps({"streams": [], "typo": "x" * 20_000}),
    ],
)
def test_an_invalid_message_closes_the_socket_with_a_reason(served: StreamServer, message: str) -> None:
    with open_socket(served) as socket:
        socket.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4422
    assert closed.value.rcvd.reason


def test_many_clients_of_one_key_cost_one_preview(served: StreamServer) -> None:
    """Each frame is fetched once: with two watchers, the number of calls stays that of one."""
    calls: list[int | None] = []
    snapshot = served.streams.snapshot

    async def counted(*args: Any, **kwargs: Any) -> Snapshot | None:
        calls.append(args[2])
        return await snapshot(*args, **kwargs)

    served.streams.snapshot = counted  # type: ignore[method-assign]
    try:
        with open_socket(served) as one, open_socket(served) as two, open_socket(served) as three:
            for socket in (one, two, three):
                watch(socket, "lot")
                assert receive(socket)[1] == b"drawn"
            assert calls.count(None) == 1
    finally:
        del served.streams.snapshot


def test_previews_are_limited(served: StreamServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "MAX_PREVIEWS", 1)
    with open_socket(served) as socket:
        watch(socket, "lot", "yard")
        found = [receive(socket) for _ in range(2)]
    (error,) = [header for header, jpeg in found if not jpeg]
    assert (error["stream_id"], error["code"]) == ("yard", "overloaded")
    assert error["detail"].startswith("previews: ")


def test_a_client_that_disconnects_leaves_no_preview(served: StreamServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "MAX_PREVIEWS", 1)
    with open_socket(served) as socket:
        watch(socket, "lot")
        assert receive(socket)[1]
    with open_socket(served) as socket:
        while True:  # the server may not have noticed yet that the first client has left
            watch(socket, "yard")
            if receive(socket)[1]:
                break
            watch(socket)


class SlowSocket:
    """A WebSocket whose client reads nothing until ``reads`` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.sending = asyncio.Event()
        self.sent: list[bytes] = []

    async def send_bytes(self, message: bytes) -> None:
        self.sending.set()
        await self.reads.wait()
        self.sent.append(message)


async def test_a_slow_client_gets_only_the_newest_frame_of_each_stream() -> None:
    socket: Any = SlowSocket()
    watcher = previews._Watcher(previews._Previews(FakeStreams()), LOCAL)
    watcher.interval_s = 0.0
    task = asyncio.create_task(watcher.send(socket))
    watcher.offer("lot", Snapshot(0, b"frame"))
    await socket.sending.wait()
    for number in range(1, 1000):
        for stream_id in ("lot", "yard"):
            watcher.offer(stream_id, Snapshot(number, b"frame"))
    assert len(watcher._waiting) == 2
    socket.reads.set()
    await until(lambda: len(socket.sent) == 3)
    task.cancel()
    assert sorted(b'"frame_id": 999' in message for message in socket.sent) == [False, True, True]


async def test_a_stream_is_sent_at_most_as_often_as_the_client_wants() -> None:
    socket: Any = SlowSocket()
    socket.reads.set()
    watcher = previews._Watcher(previews._Previews(FakeStreams()), LOCAL)
    watcher.interval_s = 1000.0
    task = asyncio.create_task(watcher.send(socket))
    watcher.offer("lot", Snapshot(0, b"frame"))
    await until(lambda: socket.sent)
    watcher.offer("lot", Snapshot(1, b"frame"))
    watcher.offer("yard", Snapshot(0, b"frame"))
    await until(lambda: len(socket.sent) == 2)
    task.cancel()
    assert list(watcher._waiting) == ["lot"]


def test_a_bug_in_a_preview_is_told_and_logged(
    served: StreamServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(served.streams, "snapshot", fail)
    with open_socket(served) as socket:
        watch(socket, "lot")
        assert receive(socket)[0]["code"] == "unavailable"
    assert "the preview of stream lot failed" in caplog.text


def test_a_client_does_not_see_the_streams_of_others(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.yaml")
    yard = keys.add("yard", "streams")
    with served_with(keys) as served:
        served.streams.shots = {"drawn": DRAWN}
        with open_socket(served, additional_headers=yard) as socket:
            watch(socket, "lot", "none")
            (foreign, _), (unknown, _) = sorted((receive(socket), receive(socket)), key=lambda got: got[0]["stream_id"])
        assert (foreign["stream_id"], foreign["code"], unknown["code"]) == ("lot", "not_found", "not_found")
        assert foreign["detail"].replace("lot", "none") == unknown["detail"]
        owner = {"Authorization": served.http.headers["Authorization"]}
        with open_socket(served, additional_headers=owner) as socket:
            watch(socket, "lot")
            assert receive(socket)[1] == b"drawn"
            served.streams.owners["lot"] = "yard"  # deleted, and created again by another key
            assert receive(socket)[0]["code"] == "not_found"


def test_a_connection_that_sends_too_many_messages_is_closed(served: StreamServer) -> None:
    def send_and_read() -> None:
        for number in range(50 * previews.MAX_MESSAGES_PER_S):
            watch(socket, f"stream-{number}")
        while True:
            socket.recv(timeout=60)

    with open_socket(served) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            send_and_read()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4429


def test_only_the_last_of_many_wishes_counts(served: StreamServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    snapshot = served.streams.snapshot

    async def noted(stream_id: str, *args: Any, **options: Any) -> Snapshot | None:
        asked.append(stream_id)
        return await snapshot(stream_id, *args, **options)

    monkeypatch.setattr(served.streams, "snapshot", noted)
    with open_socket(served) as socket:
        for number in range(previews.MAX_MESSAGES_PER_S // 2):
            watch(socket, f"stream-{number}")
        watch(socket, "lot")
        while receive(socket)[0]["stream_id"] != "lot":
            pass
    assert len(set(asked)) < previews.MAX_MESSAGES_PER_S // 4


class PacedSocket:
    """A socket that takes a while for each message, and notes the stream of each."""

    def __init__(self) -> None:
        self.streams: list[str] = []

    async def send_bytes(self, data: bytes) -> None:
        (length,) = struct.unpack(">I", data[:4])
        self.streams.append(json.loads(data[4 : 4 + length])["stream_id"])
        await asyncio.sleep(0.01)


async def test_a_slow_connection_gets_no_frames_of_what_it_no_longer_watches(
    served: StreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "_CHANGE_INTERVAL_S", 0.0)
    streams = FakeStreams()
    names = [f"stream-{number}" for number in range(40)]
    for name in ["lot", *names]:
        await streams.create(StreamSpec.model_validate(STREAM | {"id": name}), LOCAL)
    streams.shots = {"drawn": DRAWN}
    watcher, socket = previews._Watcher(previews._Previews(streams), LOCAL), PacedSocket()
    watcher.ask(Watch(streams=names))
    sending = asyncio.create_task(watcher.send(cast(WebSocket, socket)))
    try:
        await until(lambda: len(socket.streams) > 3)
        watcher.ask(Watch(streams=["lot"]))
        seen = len(socket.streams)
        await until(lambda: "lot" in socket.streams)
        assert socket.streams.index("lot") - seen <= 1  # the one that was being sent
    finally:
        sending.cancel()
        watcher.close()


def test_a_binary_message_is_refused_with_a_sentence(served: StreamServer) -> None:
    with open_socket(served) as socket:
        socket.send(b"{}")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=60)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4422, "the message is binary; send JSON as text")
