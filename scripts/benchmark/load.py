"""The load generator, a process of its own: so many clients, each with one request at a time, over kept connections;
or requests that come at a rate, whether others are answered or not.

Reads a ``LoadPlan`` as JSON from its input; prints a line when the warm-up is over, one when the time is, and the
``LoadResult``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

TIMEOUT_S = 60


@dataclass(frozen=True)
class LoadPlan:
    """What to send."""

    url: str
    folder: str  # every file in it is a picture
    concurrency: int
    duration_s: float
    warm_up_s: float
    multipart: bool
    rate_per_s: float = 0.0  # in place of the concurrency: they come at random, so many on average
    seed: int = 0


@dataclass
class LoadResult:
    """What came back between the end of the warm-up and the end of the time, or at a rate, of what was sent then."""

    duration_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)  # by status or exception
    batch_sizes: list[int] = field(default_factory=list)
    stages_ms: dict[str, float] = field(default_factory=dict)  # mean, where the answers tell


def run(plan: LoadPlan, at_edge: Callable[[], None] = lambda: None) -> LoadResult:
    """Sends it all. ``at_edge`` is called when the warm-up is over and when the time is."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(dataclasses.asdict(plan)))
        process.stdin.close()
        for _ in range(2):
            process.stdout.readline()
            at_edge()
        return LoadResult(**json.loads(process.stdout.read()))


async def _generate(plan: LoadPlan, pictures: list[bytes]) -> LoadResult:
    result = LoadResult()
    totals: dict[str, float] = {}
    timeout = aiohttp.ClientTimeout(TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    begins_s = time.monotonic() + plan.warm_up_s
    ends_s = begins_s + plan.duration_s

    async def client(http: aiohttp.ClientSession, number: int) -> None:
        turn = random.Random(plan.seed + number)
        while time.monotonic() < ends_s:
            await ask(http, turn.choice(pictures))

    async def arrivals(http: aiohttp.ClientSession) -> None:
        turn, asking = random.Random(plan.seed), set()
        next_s = time.monotonic()
        while (next_s := next_s + turn.expovariate(plan.rate_per_s)) < ends_s:
            await asyncio.sleep(next_s - time.monotonic())
            asking.add(task := asyncio.create_task(ask(http, turn.choice(pictures))))
            task.add_done_callback(asking.discard)
        await asyncio.gather(*asking)

    async def ask(http: aiohttp.ClientSession, picture: bytes) -> None:
        sent_s = time.monotonic()
        body: dict[str, Any] = {"data": picture, "headers": {"Content-Type": "image/jpeg"}}
        if plan.multipart:
            form = aiohttp.FormData()
            form.add_field("file", picture, filename="picture.jpg", content_type="image/jpeg")
            body = {"data": form}
        try:
            async with http.post(plan.url, **body) as response:
                answer = await response.read()
                outcome = "" if response.status == 200 else str(response.status)
                if "Retry-After" in response.headers:
                    outcome += ", Retry-After"
        except (aiohttp.ClientError, TimeoutError) as exc:
            outcome = type(exc).__name__
        now_s = time.monotonic()
        # At a rate, who is not answered in time comes into the figures as well: it counts when it was sent.
        if not begins_s <= (sent_s if plan.rate_per_s else now_s) <= ends_s:
            return
        if outcome:
            result.failures[outcome] = result.failures.get(outcome, 0) + 1
            return
        result.latencies_s.append(now_s - sent_s)
        keep(answer)

    def keep(answer: bytes) -> None:
        body = json.loads(answer)
        if "batch_size" in body:
            result.batch_sizes.append(body["batch_size"])
            for stage, ms in body["timing_ms"].items():
                totals[stage] = totals.get(stage, 0.0) + ms

    async def say_at(time_s: float) -> None:
        await asyncio.sleep(time_s - time.monotonic())
        print(flush=True)

    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
        clients = [client(http, number) for number in range(plan.concurrency)]
        await asyncio.gather(say_at(begins_s), say_at(ends_s), *(clients if not plan.rate_per_s else [arrivals(http)]))
    result.duration_s = plan.duration_s
    result.stages_ms = {stage: total / len(result.batch_sizes) for stage, total in totals.items()}
    return result


if __name__ == "__main__":
    plan = LoadPlan(**json.load(sys.stdin))
    pictures = [path.read_bytes() for path in sorted(Path(plan.folder).iterdir())]
    print(json.dumps(dataclasses.asdict(asyncio.run(_generate(plan, pictures)))))
