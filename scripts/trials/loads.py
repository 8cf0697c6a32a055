"""Adjustable loads, which consist of images over HTTP or of streams."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import numpy as np

from scripts.trials.cluster import Cluster, stream
from serve_app.client import SightlineError

IN_FLIGHT = 128  # the maximum number of requests in flight; at this number, no further request is sent
_TIMEOUT_S = 90.0  # longer than the server's deadline for requests
_POLL_INTERVAL_S = 0.5
_PAUSE_S = 0.01
_WINDOW_S = 2.0  # rates and percentiles are computed over windows of this length


@dataclass(frozen=True)
class Answers:
    """The offered load and its answers, in windows of two seconds. Times are in seconds since the start."""

    at_s: list[float]
    offered_per_s: list[float]
    answered_per_s: list[float]
    p50_s: list[float]
    p99_s: list[float]


class AdjustableLoad(Protocol):
    """A load that sends images at an adjustable level."""

    def offer(self, level: int) -> None:
        """Set the level of the load from now on."""

    def answers(self, started_at_s: float) -> Answers:
        """End the load, wait for all answers and return them, with times relative to ``started_at_s``."""

    def problems(self) -> list[str]:
        """Return one message for each wrong or missing answer."""


class HttpLoad:
    """A load of HTTP requests at random times.

    The level is the average number of requests per second. At most ``IN_FLIGHT`` requests are in flight at once.
    """

    def __init__(self, url: str, picture: bytes) -> None:
        self._url = url
        self._picture = picture
        self._rate = 0
        self._rates: list[tuple[float, int]] = []  # when each rate was set, and the rate in requests per second
        self._answered: list[tuple[float, float]] = []  # when each request was sent and answered
        self._problems: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> HttpLoad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def offer(self, level: int) -> None:
        """Set the number of requests per second."""
        self._rates.append((time.monotonic(), level))
        self._rate = level

    def answers(self, started_at_s: float) -> Answers:
        """Return the answers, as described in ``AdjustableLoad``."""
        self._end()
        sent_at_s, ended_at_s = (np.array(times) - started_at_s for times in zip(*self._answered, strict=True))
        at_s = np.arange(_WINDOW_S, ended_at_s.max(), _WINDOW_S)
        windows = [(ended_at_s - sent_at_s)[(at - _WINDOW_S < ended_at_s) & (ended_at_s <= at)] for at in at_s]
        changed_at_s, rates = zip(*self._rates, strict=True)
        offered = [rates[int(np.searchsorted(changed_at_s, at + started_at_s - _WINDOW_S / 2)) - 1] for at in at_s]
        return _answers(at_s, offered, [len(window) / _WINDOW_S for window in windows], windows)

    def problems(self) -> list[str]:
        """Return the problems, as described in ``AdjustableLoad``."""
        return self._problems

    @property
    def count(self) -> int:
        """The number of requests, whether they succeeded or failed."""
        return len(self._answered) + len(self._problems)

    def _end(self) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        slots = asyncio.Semaphore(IN_FLIGHT)
        pending: set[asyncio.Task[None]] = set()
        due_at_s = time.monotonic()
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(_TIMEOUT_S), connector=aiohttp.TCPConnector(limit=0)
        ) as http:
            while not self._stop.is_set():
                if slots.locked() or not self._rate:
                    await asyncio.sleep(_PAUSE_S)
                    due_at_s = time.monotonic()  # skip the requests that were due during the pause
                    continue
                due_at_s += random.expovariate(self._rate)
                await asyncio.sleep(due_at_s - time.monotonic())
                await slots.acquire()
                pending.add(task := asyncio.create_task(self._ask(http)))
                task.add_done_callback(pending.discard)
                task.add_done_callback(lambda _: slots.release())
            await asyncio.gather(*pending)

    async def _ask(self, http: aiohttp.ClientSession) -> None:
        sent_at_s = time.monotonic()
        try:
            async with http.post(self._url, data=self._picture, headers={"Content-Type": "image/jpeg"}) as response:
                text = await response.text()
                if response.status == 200:
                    self._answered.append((sent_at_s, time.monotonic()))
                else:
                    self._problems.append(f"a request got {response.status} {text[:200]}")
        except (aiohttp.ClientError, TimeoutError) as exc:
            self._problems.append(f"a request got {type(exc).__name__}: {exc}")


class StreamLoad:
    """A load of streams that play a video at its frame rate. As with cameras, newer frames replace waiting frames."""

    def __init__(self, cluster: Cluster, video: Path) -> None:
        self._cluster = cluster
        self._video = video
        self._streams: list[ExitStack] = []
        self._sums: list[tuple[float, int, int]] = []  # a time, and how many frames were captured and processed by then
        self._ages: list[tuple[float, float]] = []  # a time, and the age of a stream's latest result at that time
        self._problems: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> StreamLoad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.offer(0)

    def offer(self, level: int) -> None:
        """Set the number of streams."""
        while len(self._streams) < level:
            fields = {"loop": True, "policy": "drop_oldest"}
            self._streams.append(ExitStack())
            self._streams[-1].enter_context(
                stream(self._cluster, f"camera-{len(self._streams)}", self._video, **fields)
            )
        while len(self._streams) > level:
            self._streams.pop().close()

    def answers(self, started_at_s: float) -> Answers:
        """Return the answers, as described in ``AdjustableLoad``.

        The percentiles are computed from the ages of the streams' latest results. The ages are sampled twice a second.
        """
        at_s = np.arange(_WINDOW_S, self._sums[-1][0] - started_at_s, _WINDOW_S)
        sampled_at_s, captured, processed = (np.array(column) for column in zip(*self._sums, strict=True))
        captured, processed = (np.interp(at_s + started_at_s, sampled_at_s, column) for column in (captured, processed))
        age_at_s, ages_s = (np.array(column) for column in zip(*self._ages, strict=True))
        windows = [ages_s[(at - _WINDOW_S < age_at_s - started_at_s) & (age_at_s - started_at_s <= at)] for at in at_s]
        offered, answered = (np.gradient(column, at_s) for column in (captured, processed))
        return _answers(at_s, offered, answered, windows)

    def problems(self) -> list[str]:
        """Return the problems, as described in ``AdjustableLoad``."""
        return self._problems

    def _poll(self) -> None:
        """Sample the counters of all streams. The sums include the last counters of deleted streams."""
        latest: dict[str, tuple[int, int]] = {}
        while not self._stop.wait(_POLL_INTERVAL_S):
            with suppress(SightlineError):  # the server may be restarting
                for status in self._cluster.streams():
                    latest[status.stream_id] = status.captured, status.processed
                    if status.latest:
                        self._ages.append((time.monotonic(), status.latest.age_s))
                    if status.state == "failed":
                        self._problems.append(f"{status.stream_id} failed: {status.detail}")
                captured, processed = (
                    (sum(column) for column in zip(*latest.values(), strict=True)) if latest else (0, 0)
                )
                self._sums.append((time.monotonic(), captured, processed))


def _answers(at_s: Any, offered: Any, answered: Any, windows: list[Any]) -> Answers:
    p50_s, p99_s = (
        [float(np.percentile(window, share)) if len(window) else float("nan") for window in windows]
        for share in (50, 99)
    )
    return Answers(list(map(float, at_s)), list(map(float, offered)), list(map(float, answered)), p50_s, p99_s)
