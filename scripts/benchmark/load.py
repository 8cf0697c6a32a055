"""The load generator, which runs in its own process.

Without a rate, each client sends one request at a time over a persistent connection. With a rate, requests are sent at
random times, whether or not earlier requests have been answered.

The program reads a ``LoadPlan`` as JSON from stdin. It prints an empty line at the end of the warm-up, another at the
end of the measurement, and then the ``LoadResult`` as JSON.
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


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """The requests to send."""

    url: str
    folder: str  # contains only images
    concurrency: int
    duration_s: float
    warm_up_s: float
    multipart: bool
    rate_per_s: float = 0.0  # mean rate of requests at random times; if set, ``concurrency`` is ignored
    seed: int = 0


@dataclass
class LoadResult:
    """The answers that the measurement counts.

    Without a rate, these are the answers received during the measurement. With a rate, they are the answers to the
    requests sent during the measurement.
    """

    duration_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)  # number of failures, by status code or exception
    batch_sizes: list[int] = field(default_factory=list)
    input_shapes: dict[str, int] = field(default_factory=dict)  # number of answers by the shape of the model input
    stages_ms: dict[str, float] = field(default_factory=dict)  # mean time by stage, if the answers have timings


def run(plan: LoadPlan, at_edge: Callable[[], None] = lambda: None) -> LoadResult:
    """Send the requests. Call ``at_edge`` when the warm-up ends, and again when the measurement ends."""
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
    begins_at_s = time.monotonic() + plan.warm_up_s
    ends_at_s = begins_at_s + plan.duration_s

    async def client(http: aiohttp.ClientSession, number: int) -> None:
        rng = random.Random(plan.seed + number)
        while time.monotonic() < ends_at_s:
            await send(http, rng.choice(pictures))

    async def arrivals(http: aiohttp.ClientSession) -> None:
        rng, sending = random.Random(plan.seed), set()
        next_at_s = time.monotonic()
        while (next_at_s := next_at_s + rng.expovariate(plan.rate_per_s)) < ends_at_s:
            await asyncio.sleep(next_at_s - time.monotonic())
            sending.add(task := asyncio.create_task(send(http, rng.choice(pictures))))
            task.add_done_callback(sending.discard)
        await asyncio.gather(*sending)

    async def send(http: aiohttp.ClientSession, picture: bytes) -> None:
        sent_at_s = time.monotonic()
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
        now_at_s = time.monotonic()
        # With a rate, count every request sent during the measurement, even if its answer arrives afterwards.
        if not begins_at_s <= (sent_at_s if plan.rate_per_s else now_at_s) <= ends_at_s:
            return
        if outcome:
            result.failures[outcome] = result.failures.get(outcome, 0) + 1
            return
        result.latencies_s.append(now_at_s - sent_at_s)
        keep(answer)

    def keep(answer: bytes) -> None:
        body = json.loads(answer)
        if "batch_size" in body:
            result.batch_sizes.append(body["batch_size"])
            for stage, ms in body["timing_ms"].items():
                totals[stage] = totals.get(stage, 0.0) + ms
        if size := body.get("input"):
            shape = f"{size['height']}x{size['width']}"
            result.input_shapes[shape] = result.input_shapes.get(shape, 0) + 1

    async def print_line_at(at_s: float) -> None:
        await asyncio.sleep(at_s - time.monotonic())
        print(flush=True)

    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
        clients = [client(http, number) for number in range(plan.concurrency)]
        await asyncio.gather(
            print_line_at(begins_at_s),
            print_line_at(ends_at_s),
            *(clients if not plan.rate_per_s else [arrivals(http)]),
        )
    result.duration_s = plan.duration_s
    result.stages_ms = {stage: total / len(result.batch_sizes) for stage, total in totals.items()}
    return result


if __name__ == "__main__":
    plan = LoadPlan(**json.load(sys.stdin))
    pictures = [path.read_bytes() for path in sorted(Path(plan.folder).iterdir())]
    print(json.dumps(dataclasses.asdict(asyncio.run(_generate(plan, pictures)))))
