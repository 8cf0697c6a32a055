"""Simulate the batcher under overload in virtual time, and plot how long clients, streams and jobs wait.

python -m scripts.benchmark.simulation       simulate, and save the plot build/bench/simulation.png
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve_app.config import BatcherArgs
from serve_app.errors import ServeAppError
from serve_app.inference.batcher import Batcher
from serve_app.types import Traffic

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class SenderGroup:
    """Senders of one tenant. Each sender has at most one image in flight.

    Before each image, the sender pauses for ``pause_s`` on average.
    """

    traffic: Traffic
    tenant: str
    senders: int
    pause_s: float = 0.0


@dataclass
class Waits:
    """The waiting times and refusals of one tenant's senders."""

    at_s: list[float] = field(default_factory=list)
    queue_s: list[float] = field(default_factory=list)
    refused: int = 0


def simulate(crowds: list[SenderGroup], *, batch_s: float, max_batch_size: int, duration_s: float) -> dict[str, Waits]:
    """Return each tenant's ``Waits``. The engine takes ``batch_s`` for a batch of up to ``max_batch_size`` images."""
    seen: dict[str, Waits] = defaultdict(Waits)

    async def engine(items: list[int]) -> list[int]:
        await asyncio.sleep(batch_s)
        return items

    async def sender(crowd: SenderGroup, rng: random.Random, batcher: Batcher[int, int]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if crowd.pause_s:
                await asyncio.sleep(rng.expovariate(1 / crowd.pause_s))
            started_at_s = loop.time()
            try:
                batched = await batcher.submit(0, time_left_s=60, traffic=crowd.traffic, tenant=crowd.tenant)
            except ServeAppError:
                seen[crowd.tenant].refused += 1
                await asyncio.sleep(batch_s)
                continue
            seen[crowd.tenant].at_s.append(started_at_s)
            seen[crowd.tenant].queue_s.append(batched.queue_s)

    async def run() -> None:
        batcher = Batcher(
            engine, max_batch_size=max_batch_size, max_queue_size=128, weights=BatcherArgs().weights(),
            items_per_s=max_batch_size / batch_s, clock_s=asyncio.get_running_loop().time,
        )  # fmt: skip
        senders = [
            asyncio.create_task(sender(crowd, random.Random(f"{crowd.tenant} {number}"), batcher))
            for crowd in crowds
            for number in range(crowd.senders)
        ]
        await asyncio.sleep(duration_s)
        for task in senders:
            task.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        await batcher.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())
    return dict(seen)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer. Tasks must wait only for timers and for each other."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Return the virtual seconds since the loop was created."""
        return self._now_s

    def jump(self, by_s: float) -> None:
        """Advance the virtual time by ``by_s``."""
        self._now_s += by_s


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the loop would wait forever: no task is ready and no timer is set")
        self._loop.jump(max(timeout, 0))
        return []


OVERLOAD = [
    SenderGroup("interactive", "clients", senders=8, pause_s=1.0),
    *(SenderGroup("stream", f"stream {number}", senders=1) for number in range(16)),
    SenderGroup("job", "job", senders=64),
]


def main() -> None:
    """Simulate the overload and save a plot."""
    import numpy as np
    from matplotlib import pyplot as plt

    seen = simulate(OVERLOAD, batch_s=0.2, max_batch_size=8, duration_s=120)
    figure, (over_time, spread) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    kinds = {"clients": ["clients"], "16 streams": [name for name in seen if name.startswith("stream")], "job": ["job"]}
    for label, tenants in kinds.items():
        at_s = np.concatenate([seen[name].at_s for name in tenants])
        queue_s = np.concatenate([seen[name].queue_s for name in tenants])
        over_time.plot(at_s, queue_s, ".", markersize=3, label=label)
        spread.plot(np.sort(queue_s), np.linspace(0, 100, len(queue_s)), label=f"{label}: {len(queue_s) / 120:.1f}/s")
    over_time.set(xlabel="time, s", ylabel="in the queue, s", ylim=(0, None))
    spread.set(xlabel="in the queue, s", ylabel="% of images", xlim=(0, None))
    spread.legend()
    over_time.set_title(
        "8 clients, 16 streams and a job with 64 in flight; the engine takes 40 images/s", fontsize="medium"
    )
    path = ROOT / "build/bench/simulation.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


if __name__ == "__main__":
    main()
