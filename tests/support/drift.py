"""Images for tests of drift, as histograms without pixels, and the monitor that gets them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.config import DriftArgs
from serve_app.detections import Detections
from serve_app.drift.bins import BINS, histogram_of
from serve_app.drift.features import Look
from serve_app.drift.monitor import Monitor
from serve_app.drift.store import DriftStore
from serve_app.drift.tally import MinuteCounts, Report, Seen
from serve_app.types import Answer, InputShape, Timing

ARGS = DriftArgs(reference_images=400, window_images=100)
HOUR_S = 3600


def answer(*class_ids: int, confidence: float = 0.8, width_px: int = 640, height_px: int = 480) -> Answer:
    """Return an answer with one object of 64×48 pixels in the middle of the image for each class id."""
    boxes = np.array([[288, 216, 352, 264]] * len(class_ids), np.float32).reshape(-1, 4)
    detections = Detections(
        boxes,
        np.full(len(class_ids), confidence, np.float32),
        np.array(class_ids, np.int32),
        tuple(f"class {class_id}" for class_id in class_ids),
    )
    return Answer(detections, width_px, height_px, "fake", 1, Timing(), InputShape.square(640))


def images(count: int, *, brightness: float = 120, classes: tuple[int, ...] = (0, 1)) -> NDArray[np.uint32]:
    """Return the counts of images with this brightness, give or take 30, each with objects of these classes."""
    rng = np.random.default_rng(count)
    total = np.zeros(BINS, np.uint32)
    for offset in rng.uniform(-30, 30, count):
        total += histogram_of(Look(brightness + offset, 50, 200), answer(*classes))
    return total


def report(
    number: int,
    counts: NDArray[np.uint32],
    *,
    source: str = "stream/gate",
    version: str = "v1",
    hour: int = 12,
    reporter: str = "worker",
    minutes: tuple[MinuteCounts, ...] = (),
) -> Report:
    """Return a report about one source of the model ``default``."""
    seen = Seen("default", version, source, hour, counts, {0: "person", 1: "car"})
    return Report(reporter, number, (seen,), minutes)


def opened(folder: Path) -> tuple[Monitor, DriftStore]:
    """Return the monitor of a new process, and its store."""
    store = DriftStore(folder)
    assert store.acquire()
    monitor = Monitor(store, ARGS)
    monitor.load()
    return monitor, store
