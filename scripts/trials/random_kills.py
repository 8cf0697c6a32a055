"""Kill processes at random moments."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

from scripts.trials.background import in_background
from scripts.trials.cluster import Cluster

_PAUSE_S = 1.0, 8.0  # between two kills, so that some work is done in between
_POLL_INTERVAL_S = 0.1

Kill = tuple[float, str]  # the seconds since the start, and the kind of the killed process


@contextmanager
def random_kills(victims: Sequence[str], times: int, seed: int, cluster: Cluster, killed: list[Kill]) -> Iterator[None]:
    """While the ``with`` block runs, kill each kind of process ``times`` times, in random order at random moments.

    If no process of a kind is alive at that moment, its successor is killed. Each kill is appended to ``killed``.
    """
    chance = random.Random(seed)
    order = [victim for victim in victims for _ in range(times)]
    chance.shuffle(order)
    started_at_s = time.monotonic()

    def kill(stop: threading.Event) -> None:
        for victim in order:
            if stop.wait(chance.uniform(*_PAUSE_S)):
                return
            while not (alive := cluster.alive(victim)):
                if stop.wait(_POLL_INTERVAL_S):
                    return
            with suppress(psutil.Error):
                chance.choice(alive).kill()
                killed.append((time.monotonic() - started_at_s, victim))

    with in_background(kill):
        yield
