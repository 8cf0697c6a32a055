"""The video sink against GStreamer's RTSP server."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.detections import Detections
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import VideoSink
from serve_app.streams.outputs.restream import Restream
from tests.integration.conftest import rtsp_recorder
from tests.support.sinks import until

pytestmark = pytest.mark.anyio

FRAMES = 30
GUARD = AddressGuard((ip_network("127.0.0.0/8"),))
CREDENTIALS = "publisher:hunter2"
NOTHING = Detections.empty()
FOUND = Detections(
    np.array([[40, 40, 160, 160]], np.float32), np.array([0.9], np.float32), np.array([0], np.int32), ("dog",)
)


async def publish(url: str, found: Detections = NOTHING, *, boxes: bool = True) -> Restream:
    """Publish frames that become brighter, and return the closed sink."""
    sink = Restream(VideoSink(type="video", url=url, max_fps=30, boxes=boxes), "lot", GUARD, hwaccel=None)
    times_s = count(1e9, 0.1)

    def is_done() -> bool:
        status = sink.status()
        if not status.waiting and status.sent < FRAMES:
            sink.put(np.full((240, 320, 3), 40 + 6 * status.sent, np.uint8), found, next(times_s))
        return status.sent >= FRAMES or bool(status.detail)

    await until(is_done)
    await sink.close(30)
    return sink


def received(file: Path) -> list[NDArray[Any]]:
    """Return each frame that the server has received."""
    with av.open(str(file)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


async def test_every_frame_arrives(tmp_path: Path) -> None:
    with rtsp_recorder(tmp_path / "a.h264", CREDENTIALS) as port:
        sink = await publish(f"rtsp://{CREDENTIALS}@127.0.0.1:{port}/live")
    assert (sink.status().sent, sink.status().dropped, sink.status().detail) == (FRAMES, {}, "")
    brightness = [frame.mean() for frame in received(tmp_path / "a.h264")]
    np.testing.assert_allclose(brightness, [40 + 6 * number for number in range(FRAMES)], atol=4)


async def test_wrong_credentials_are_named_without_being_shown(tmp_path: Path) -> None:
    with rtsp_recorder(tmp_path / "a.h264", CREDENTIALS) as port:
        sink = await publish(f"rtsp://publisher:wrong@127.0.0.1:{port}/live")
    assert "401 Unauthorized" in sink.status().detail
    assert "wrong" not in sink.status().model_dump_json()


@pytest.mark.parametrize("boxes", [True, False])
async def test_boxes_are_drawn_if_wanted(tmp_path: Path, boxes: bool) -> None:
    with rtsp_recorder(tmp_path / "a.h264") as port:
        await publish(f"rtsp://127.0.0.1:{port}/live", FOUND, boxes=boxes)
    assert all((frame.std() > 5) == boxes for frame in received(tmp_path / "a.h264"))
