"""The times of published frames, with a fake RTSP server."""

from __future__ import annotations

from itertools import pairwise

import pytest

from serve_app.ipc.quarantine import Quarantine
from serve_app.video.publishing import Channel, finish, publish
from tests.support.rtsp_server import RtspServer
from tests.support.sinks import until

pytestmark = pytest.mark.anyio

WIDTH_PX, HEIGHT_PX = 64, 48
FRAME = bytes([90]) * (WIDTH_PX * HEIGHT_PX * 3 // 2)
MAX_FPS = 5


async def published(times_s: list[float]) -> list[float]:
    """Return the seconds between the published frames, for frames that were captured at these times."""
    server, process = RtspServer(), Quarantine(30)
    channel = Channel(f"rtsp://127.0.0.1:{server.port}/live", WIDTH_PX, HEIGHT_PX, MAX_FPS, None)
    try:
        for time_s in times_s:
            await process.run(publish, channel, FRAME, time_s)
        await process.run(finish)
        await until(lambda: server.ended == 1)
    finally:
        await process.close()
        server.close()
    return [((later - earlier) % 2**32) / 90_000 for earlier, later in pairwise(server.timestamps)]


async def test_frames_keep_the_times_between_them() -> None:
    assert await published([1e9, 1e9 + 0.25, 1e9 + 1]) == pytest.approx([0.25, 0.75], abs=1e-3)


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
async def test_a_wall_clock_that_is_set_costs_one_frame_interval(jump_s: float) -> None:
    later_s = 1e9 + 0.25 + jump_s
    gaps_s = await published([1e9, 1e9 + 0.25, later_s, later_s + 0.25, later_s + 0.5])
    assert gaps_s == pytest.approx([0.25, 1 / MAX_FPS, 0.25, 0.25], abs=1e-3)
