"""The video sink, with a fake RTSP server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_network
from itertools import count

import numpy as np
import pytest

from serve_app.detections import Detections
from serve_app.errors import InvalidParameter, InvalidUrl
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import StreamSpec, VideoSink
from serve_app.streams.outputs.checks import check_outputs
from serve_app.streams.outputs.restream import Restream
from tests.support.rtsp_server import RtspServer
from tests.support.sinks import until

pytestmark = pytest.mark.anyio

GUARD = AddressGuard((ip_network("127.0.0.0/8"),))
FOUND = Detections(
    np.array([[8, 8, 24, 24]], np.float32), np.array([0.9], np.float32), np.array([0], np.int32), ("dog",)
)
FRAME = np.full((48, 65, 3), 90, np.uint8)  # an odd width, which H.264 does not allow
CLOSED_WITHIN_S = 30


@pytest.fixture
def server() -> Iterator[RtspServer]:
    server = RtspServer()
    yield server
    server.close()


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., Restream]]:
    """Return a function that opens a sink for a port. The sinks are closed after the test."""
    sinks: list[Restream] = []

    def open_one(port: int, guard: AddressGuard = GUARD) -> Restream:
        url = f"rtsp://publisher:pa%3Fss@127.0.0.1:{port}/live?token=secret"
        sinks.append(Restream(VideoSink(type="video", url=url, max_fps=30), "lot", guard, hwaccel=None))
        return sinks[-1]

    yield open_one
    for sink in sinks:
        await sink.close(0)


class Camera:
    """Gives frames to a sink, 0.1 s apart on the sink's clock."""

    def __init__(self, sink: Restream) -> None:
        self._sink, self._times_s = sink, (1e9 + number / 10 for number in count())
        self.frames = 0

    def shoot(self) -> None:
        self._sink.put(FRAME, FOUND, next(self._times_s))
        self.frames += 1


def is_sent(sink: Restream, camera: Camera) -> bool:
    """Return whether all frames were sent. If none waits, shoot one."""
    if not sink.status().waiting:
        camera.shoot()
    return sink.status().sent >= 5


async def test_frames_are_published_until_the_sink_is_closed(
    server: RtspServer, opened: Callable[..., Restream]
) -> None:
    sink = opened(server.port)
    camera = Camera(sink)
    await until(lambda: is_sent(sink, camera))
    await sink.close(CLOSED_WITHIN_S)
    camera.shoot()
    status = sink.status()
    assert (status.type, status.detail, status.waiting) == ("video", "", 0)
    assert status.dropped == {"closed": 1}
    assert status.sent + 1 == camera.frames
    await until(lambda: server.ended == 1)
    assert server.frames == status.sent
    [announced] = server.announced
    assert announced.startswith(f"ANNOUNCE rtsp://127.0.0.1:{server.port}/live?token=secret RTSP/1.0")


async def test_credentials_are_neither_in_the_status_nor_in_the_log(
    opened: Callable[..., Restream], caplog: pytest.LogCaptureFixture
) -> None:
    with_failure = RtspServer(status="403 Forbidden")
    sink = opened(with_failure.port)
    camera = Camera(sink)
    camera.shoot()
    await until(lambda: sink.status().detail != "")
    text = sink.status().model_dump_json() + caplog.text
    assert sink.status().target == f"rtsp://127.0.0.1:{with_failure.port}/…"
    assert not any(secret in text for secret in ("publisher", "pa%3Fss", "pa?ss", "secret"))
    for _ in range(3):
        camera.shoot()
    status = sink.status()
    assert status.dropped.keys() == {"disconnected"}
    assert status.dropped["disconnected"] + status.waiting == camera.frames
    with_failure.close()


async def test_a_sink_reconnects_and_counts_the_frames_that_it_drops(
    server: RtspServer, opened: Callable[..., Restream]
) -> None:
    sink = opened(server.port)
    camera = Camera(sink)
    await until(lambda: is_sent(sink, camera))
    server.drop()

    def has_reconnected() -> bool:
        is_sent(sink, camera)
        return len(server.announced) == 2 and sink.status().detail == ""

    await until(has_reconnected)
    status = sink.status()
    assert status.dropped["disconnected"] >= 1
    assert status.sent + status.waiting + sum(status.dropped.values()) == camera.frames


async def test_a_server_that_does_not_answer_delays_nothing_but_its_own_frames(
    opened: Callable[..., Restream],
) -> None:
    silent = RtspServer(silent=True)
    sink = opened(silent.port)
    camera = Camera(sink)
    for _ in range(10):
        camera.shoot()
    status = sink.status()
    assert (status.sent, status.waiting, status.dropped) == (0, 1, {"superseded": 9})
    await until(lambda: sink.status().detail == "the server does not answer within 5 s")
    silent.close()


async def test_only_allowed_addresses_are_connected_to(server: RtspServer, opened: Callable[..., Restream]) -> None:
    sink = opened(server.port, AddressGuard())
    Camera(sink).shoot()
    await until(lambda: "no allowed address" in sink.status().detail)
    assert not server.announced


def test_a_stream_with_a_bad_address_is_refused() -> None:
    def check(url: str) -> None:
        sinks = [{"type": "video", "url": url}]
        check_outputs(StreamSpec.model_validate({"source": {"uri": "a.mp4"}, "sinks": sinks}), None, AddressGuard())

    check("rtsp://video.example/live")
    with pytest.raises(InvalidUrl):
        check("rtsp://169.254.169.254/live")
    with pytest.raises(InvalidParameter, match="url is not valid"):
        check("rtsp://user:p/ss@host/live")
