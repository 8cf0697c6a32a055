"""Add streams until the ages of their results grow."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmark.usage import Usage
from scripts.benchmark.videos import sized
from scripts.codes.samples import belt_frame, save_video
from scripts.gpu_day.stage import Plan, Record
from scripts.gpu_day.usage import watched
from scripts.launch import Server
from serve_app.client import AsyncClient, FrameResult, StreamEvent

_VIDEO_FRAMES = 60
_COUNTS = (8, 16, 32, 64, 96, 128)
_WATCHED = 8  # the results of this many streams are received
_MEASURED_S = 4.0
_START_TIMEOUT_S = 40.0
_MAX_AGE_S = 1.0  # results that are older than this have waited


def measure_streams(plan: Plan, server: Server, folder: Path, record: Record) -> None:
    """Add the frame rate and the ages for increasing numbers of 1080p streams, until results are older than 1 s."""
    frames = 20 if plan.is_small else _VIDEO_FRAMES
    belt = save_video(folder / "belt.mp4", map(belt_frame, range(frames)))
    video = sized(belt, "384x216" if plan.is_small else "1920x1080", folder)
    running = 0
    for count in (1, 2) if plan.is_small else _COUNTS:
        began_at_s = time.monotonic()
        for number in range(running, count):
            spec = {"id": f"s{number}", "source": {"uri": str(video), "loop": True}, "degrade": True}
            server.client.streams.create(spec | {"policy": "drop_oldest"})
        running = count
        while min(stream.processed for stream in server.client.streams.list()) < 5:
            if time.monotonic() - began_at_s > _START_TIMEOUT_S:
                record.add(streams=count, error=f"not all streams have started within {_START_TIMEOUT_S:.0f} s")
                return
            time.sleep(0.25)
        started_s = time.monotonic() - began_at_s
        before = Usage.of(server.process.pid)
        with watched() as used:
            seen = asyncio.run(_watch(server, count, max(plan.duration_s(_MEASURED_S), 1.0)))
        after = Usage.of(server.process.pid)
        took_s = after.at_s - before.at_s
        cores = {name: round(cpu_s / took_s, 3) for name, cpu_s in after.since(before).most_common(6)}
        record.add(streams=count, start_s=round(started_s, 1), **seen, cores_by_process=cores, **used)
        if seen["age_p99_s"] is not None and seen["age_p99_s"] > _MAX_AGE_S:
            return


async def _watch(server: Server, count: int, duration_s: float) -> dict[str, Any]:
    """Return the frame rates of all streams, and the ages of the results of some of them."""
    ages_s: list[float] = []

    async def follow(client: AsyncClient, number: int) -> None:
        async for event in client.streams.events(f"s{number}", ("result",)):
            if isinstance(event, StreamEvent) and isinstance(event.data, FrameResult):
                ages_s.append(event.data.age_s)

    async with AsyncClient(server.url) as client:
        followers = [asyncio.create_task(follow(client, number)) for number in range(min(count, _WATCHED))]
        before = await client.streams.list()
        began_at_s = time.monotonic()
        await asyncio.sleep(duration_s)
        after = await client.streams.list()
        took_s = time.monotonic() - began_at_s
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
    rates = {
        key: round((sum(getattr(one, key) for one in after) - sum(getattr(one, key) for one in before)) / took_s, 1)
        for key in ("captured", "processed")
    }
    p50, p99 = np.percentile(ages_s, [50, 99]).round(3).tolist() if ages_s else (None, None)
    return {
        "captured_per_s": rates["captured"], "processed_per_s": rates["processed"],
        "age_p50_s": p50, "age_p99_s": p99, "results": len(ages_s),
    }  # fmt: skip
