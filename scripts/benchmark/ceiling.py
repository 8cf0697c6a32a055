"""Measure the bare engine: the inference engine without a server, on frames in memory. No server can be faster.

It computes squares. If the model also takes rectangles, it is measured a second time with the rectangles that the
images need.

The program reads ``ModelArgs``, a duration in seconds and the sizes of the images as JSON from stdin, and prints a
``Ceiling`` as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.benchmark.compiled import precision_of, recorded

if TYPE_CHECKING:
    from serve_app.models.engines import Engine
    from serve_app.types import InputShape, Pixels

_BATCH_SIZE = 8  # images per call, if the engine takes batches
_WARM_UP_CALLS = 5
Sizes = Counter[tuple[int, int]]  # how many images have each width and height in pixels


@dataclass(frozen=True)
class Ceiling:
    """The speed of the engine without a server."""

    images_per_s: float  # the number of calls in flight is ``engine.concurrency``
    cpu_ms_per_image: float
    latency_ms: float  # mean time of a call with one image, with no other call in flight
    input_shape: str = ""
    precision: str = ""  # of the compiled model
    # The same two figures for the rectangles that the images need; None if all images need the square.
    rectangles_per_s: float | None = None
    rectangles_cpu_ms: float | None = None


def measure(model: dict[str, Any], duration_s: float, sizes: Sizes | None = None) -> Ceiling:
    """Measure the engine in a new process. ``model`` is the ``model:`` section of a config.

    ``sizes``: the sizes of the images, if rectangles shall be measured, too.
    """
    listed = [[*size, count] for size, count in (sizes or {}).items()]
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps([model, duration_s, listed]), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return Ceiling(**json.loads(done.stdout.splitlines()[-1]))


def _measure(model: dict[str, Any], duration_s: float, sizes: list[tuple[int, int, int]]) -> Ceiling:
    from serve_app.config import ModelArgs  # imported here, because the parent process does not need serve_app
    from serve_app.images.letterbox import choose_shape
    from serve_app.models.load import load

    with recorded() as models:
        engine = load(ModelArgs.model_validate(model), has_gpu=False)
    precision = precision_of(models) or engine.info.precision
    models.clear()  # the engine frees its rectangles after the self-check
    square, shapes = engine.info.input_shape, engine.info.shapes
    frame = _frames(square, 1)
    for _ in range(_WARM_UP_CALLS):
        engine.infer(frame, alone=True)
    started_at_s, alone = time.monotonic(), 0
    while time.monotonic() - started_at_s < duration_s / 3:
        engine.infer(frame, alone=True)
        alone += 1
    latency_s = (time.monotonic() - started_at_s) / alone

    rate, cpu_ms = throughput(engine, [square], duration_s)
    needed = [choose_shape(width, height, shapes) for width, height, count in sizes for _ in range(count)]
    rectangles_per_s = rectangles_cpu_ms = None
    if set(needed) - {square}:
        rectangles_per_s, rectangles_cpu_ms = throughput(engine, needed, duration_s)
    return Ceiling(rate, cpu_ms, latency_s * 1e3, str(square), precision, rectangles_per_s, rectangles_cpu_ms)


def throughput(engine: Engine, shapes: Sequence[InputShape], duration_s: float) -> tuple[float, float]:
    """Return the engine's images per second and CPU milliseconds per image.

    Each call has images of one of ``shapes``, chosen at random. A shape that occurs twice is chosen twice as often.
    """
    size = _BATCH_SIZE if engine.takes_batches else 1
    batches = {shape: _frames(shape, size) for shape in shapes}
    images = [0] * engine.concurrency
    go, stop = threading.Barrier(engine.concurrency + 1), threading.Event()

    def infer(number: int) -> None:
        rng = random.Random(number)
        for batch in batches.values():
            for _ in range(_WARM_UP_CALLS):
                engine.infer(batch, alone=False)
        go.wait()
        while not stop.is_set():
            engine.infer(batches[rng.choice(shapes)], alone=False)
            images[number] += size

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
    return count / took_s, used_s / max(count, 1) * 1e3


def _frames(shape: InputShape, count: int) -> list[Pixels]:
    return [np.random.default_rng(seed).integers(0, 255, shape.array, np.uint8) for seed in range(count)]


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(_measure(*json.load(sys.stdin)))))
