"""Simulate the batcher under overload in virtual time, and plot waiting times and shares of the engine.

One overload has all kinds of traffic, and the other one has images of several shapes.

python -m scripts.benchmark.simulation       simulate, and save the plot build/bench/simulation.png
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.config import BatcherArgs
from serve_app.errors import ServeAppError
from serve_app.inference.batcher import Batcher
from serve_app.types import Traffic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    shape: str = "square"
    cost: float = 1.0  # the engine time of a batch of this shape, relative to the time of a batch of squares


@dataclass
class Waits:
    """The waiting times and refusals of one tenant's senders."""

    at_s: list[float] = field(default_factory=list)
    queue_s: list[float] = field(default_factory=list)
    # For each image, the number of batches that started after the image's arrival and before its own batch.
    batches: list[int] = field(default_factory=list)
    engine_s: float = 0.0  # this tenant's share of the time of its batches
    refused: int = 0


def simulate(crowds: list[SenderGroup], *, batch_s: float, max_batch_size: int, duration_s: float) -> dict[str, Waits]:
    """Return each tenant's ``Waits``. The engine takes ``batch_s`` for a batch of up to ``max_batch_size`` squares."""
    seen: dict[str, Waits] = defaultdict(Waits)
    begun = 0  # the number of batches that have started

    async def engine(costs: list[float]) -> list[int]:
        nonlocal begun
        begun += 1
        number = begun
        await asyncio.sleep(batch_s * max(costs))
        return [number] * len(costs)

    async def sender(crowd: SenderGroup, rng: random.Random, batcher: Batcher[float, int]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if crowd.pause_s:
                await asyncio.sleep(rng.expovariate(1 / crowd.pause_s))
            waits, started_at_s, before = seen[crowd.tenant], loop.time(), begun
            try:
                batched = await batcher.submit(
                    crowd.cost,
                    time_left_s=60,
                    traffic=crowd.traffic,
                    tenant=crowd.tenant,
                    shape=crowd.shape,
                    cost=crowd.cost,
                )
            except ServeAppError:
                waits.refused += 1
                await asyncio.sleep(batch_s)
                continue
            waits.at_s.append(started_at_s)
            waits.queue_s.append(batched.queue_s)
            waits.batches.append(batched.result - before - 1)
            waits.engine_s += batch_s * crowd.cost / batched.batch_size

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


# Seven tenants of the same kind of traffic. Six of them always have 16 images waiting, and one sends few images.
SHAPES = [
    *(SenderGroup("interactive", f"squares {number}", senders=16) for number in range(4)),
    SenderGroup("interactive", "4:3", senders=16, shape="4:3", cost=0.75),
    SenderGroup("interactive", "16:9", senders=16, shape="16:9", cost=0.6),
    SenderGroup("interactive", "3:2, rare", senders=1, pause_s=1.0, shape="3:2", cost=0.7),
]

_DURATION_S = 120


def main() -> None:
    """Simulate both overloads and save a plot."""
    from matplotlib import pyplot as plt

    figure, ((over_time, spread), (rounds, shares)) = plt.subplots(2, 2, figsize=(11, 9), layout="constrained")
    _plot_traffic(over_time, spread)
    _plot_shapes(rounds, shares)
    path = ROOT / "build/bench/simulation.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"plot: {path}")


def _plot_traffic(over_time: Axes, spread: Axes) -> None:
    seen = simulate(OVERLOAD, batch_s=0.2, max_batch_size=8, duration_s=_DURATION_S)
    kinds = {"clients": ["clients"], "16 streams": [name for name in seen if name.startswith("stream")], "job": ["job"]}
    for label, tenants in kinds.items():
        at_s = [value for name in tenants for value in seen[name].at_s]
        queue_s = [value for name in tenants for value in seen[name].queue_s]
        over_time.plot(at_s, queue_s, ".", markersize=3, label=label)
        per_s = f"{label}: {len(queue_s) / _DURATION_S:.1f}/s"
        spread.plot(sorted(queue_s), _percent(len(queue_s)), label=per_s, drawstyle="steps-post")
    over_time.set(xlabel="time, s", ylabel="in the queue, s", ylim=(0, None))
    spread.set(xlabel="in the queue, s", ylabel="% of images", xlim=(0, None))
    spread.legend()
    over_time.set_title(
        "8 clients, 16 streams and a job with 64 in flight; the engine takes 40 images/s", fontsize="medium"
    )


def _plot_shapes(rounds: Axes, shares: Axes) -> None:
    seen = simulate(SHAPES, batch_s=0.2, max_batch_size=8, duration_s=_DURATION_S)
    for name in ["squares 0", "4:3", "16:9", "3:2, rare"]:
        waits = seen[name]
        rounds.plot(sorted(waits.batches), _percent(len(waits.batches)), label=name, drawstyle="steps-post")
    rounds.set(xlabel="batches that started between an image's arrival and its own batch", ylabel="% of images")
    rounds.legend()
    rounds.set_title("six tenants with 16 images in flight each, and one that rarely sends an image", fontsize="medium")
    tenants = [crowd.tenant for crowd in SHAPES]
    bars = shares.bar(tenants, [100 * seen[name].engine_s / _DURATION_S for name in tenants])
    shares.bar_label(bars, [f"{len(seen[name].queue_s) / _DURATION_S:.1f}/s" for name in tenants])
    shares.tick_params(axis="x", rotation=30)
    shares.set(ylabel="% of the engine's time", ylim=(0, None))
    shares.set_title("shares of the engine, and images/s", fontsize="medium")


def _percent(count: int) -> list[float]:
    return [100 * (number + 1) / count for number in range(count)]


if __name__ == "__main__":
    main()
