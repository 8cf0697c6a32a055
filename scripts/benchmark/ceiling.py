"""Measure the bare engine: the inference engine without a server, on frames in memory. No server can be faster.

The program reads ``ModelArgs`` and a duration in seconds as JSON from stdin, and prints a ``Ceiling`` as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

_BATCH_SIZE = 8  # images per call, if the engine takes batches
_WARM_UP_CALLS = 5


@dataclass(frozen=True)
class Ceiling:
    """The speed of the engine without a server."""

    images_per_s: float  # the number of calls in flight is ``engine.concurrency``
    cpu_ms_per_image: float
    latency_ms: float  # mean time of a call with one image, with no other call in flight


def measure(model: dict[str, Any], duration_s: float) -> Ceiling:
    """Measure the engine in a new process. ``model`` is the ``model:`` section of a config."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps([model, duration_s]), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return Ceiling(**json.loads(done.stdout.splitlines()[-1]))


def _measure(model: dict[str, Any], duration_s: float) -> Ceiling:
    from serve_app.config import ModelArgs  # imported here, because the parent process does not need serve_app
    from serve_app.models.load import load

    engine = load(ModelArgs.model_validate(model), has_gpu=False)
    shape = engine.info.input_shape.array
    frames = [np.random.default_rng(seed).integers(0, 255, shape, np.uint8) for seed in range(_BATCH_SIZE)]
    batch = frames if engine.takes_batches else frames[:1]

    for _ in range(_WARM_UP_CALLS):
        engine.infer(frames[:1], alone=True)
    started_at_s, alone = time.monotonic(), 0
    while time.monotonic() - started_at_s < duration_s / 3:
        engine.infer(frames[:1], alone=True)
        alone += 1
    latency_s = (time.monotonic() - started_at_s) / alone

    images = [0] * engine.concurrency
    go, stop = threading.Barrier(engine.concurrency + 1), threading.Event()

    def infer(number: int) -> None:
        for _ in range(_WARM_UP_CALLS):
            engine.infer(batch, alone=False)
        go.wait()
        while not stop.is_set():
            engine.infer(batch, alone=False)
            images[number] += len(batch)

    threads = [threading.Thread(target=infer, args=(number,)) for number in range(engine.concurrency)]
    for thread in threads:
        thread.start()
    go.wait()
    started_at_s, cpu_s = time.monotonic(), time.process_time()
    stop.wait(duration_s)
    took_s, used_s, count = time.monotonic() - started_at_s, time.process_time() - cpu_s, sum(images)
    stop.set()
    for thread in threads:
        thread.join()
    return Ceiling(count / took_s, used_s / count * 1e3, latency_s * 1e3)


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(_measure(*json.load(sys.stdin)))))
