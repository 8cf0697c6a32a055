"""The shifts that are injected into a source's images, and the features by which they must be named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from scripts.trials.drift.cameras import Shown
from scripts.trials.drift.sources import Rng, Source, keeping
from serve_app.detections import Detections
from serve_app.drift.bins import CLASS_BINS

_LOOK = {"brightness", "contrast", "sharpness"}
_OBJECTS = {"detections", "classes", "confidence", "area", "aspect", "position"}
_NEW_IN = 0.6  # the share of images in which a new class is seen

Change = Callable[[Source, list[Source], int, Rng], list[Shown]]


@dataclass(frozen=True)
class Shift:
    """One kind of shift. It is rightly named if a ``main`` feature is named, and only ``possible`` ones are."""

    name: str
    images: Change  # the images after the shift, of a source, given all sources and the hour of the day
    main: frozenset[str]
    possible: frozenset[str]
    by_day: bool = False  # inject it only by day


def _night(source: Source, _: list[Source], __: int, ___: Rng) -> list[Shown]:
    return source.night()


def _half_of_the_classes(source: Source, _: list[Source], hour: int, __: Rng) -> list[Shown]:
    """Leave out every second class, from the most frequent on."""
    shown = source.shown(hour)
    counted = Counter(np.concatenate([one.answer.detections.class_id for one in shown]).tolist())
    gone = np.array([class_id for class_id, _ in counted.most_common()][::2])
    return [keeping(one, ~np.isin(one.answer.detections.class_id, gone)) for one in shown]


def _new_class(source: Source, _: list[Source], hour: int, rng: Rng) -> list[Shown]:
    """Add an object of a class that was never seen to most images, in one part of the image."""
    new = CLASS_BINS - 1
    at = rng.uniform(0.1, 0.6, 2)
    return [
        _with(one, new, at + rng.uniform(0, 0.1, 2)) if rng.random() < _NEW_IN else one for one in source.shown(hour)
    ]


def _another_camera(source: Source, sources: list[Source], hour: int, rng: Rng) -> list[Shown]:
    others = [other for other in sources if other.camera.name != source.camera.name]
    return others[rng.integers(len(others))].shown(hour)


def _with(shown: Shown, class_id: int, at: np.ndarray) -> Shown:
    answer, found = shown.answer, shown.answer.detections
    size = np.array([answer.width_px, answer.height_px])
    box = np.concatenate([at * size, (at + 0.25) * size]).astype(np.float32)
    detections = Detections(
        np.vstack([found.xyxy, box]),
        np.append(found.confidence, np.float32(0.8)),
        np.append(found.class_id, np.int32(class_id)),
        (*(found.labels or ()), "new"),
    )
    return replace(shown, answer=replace(answer, detections=detections))


SHIFTS = (
    Shift("night", _night, frozenset(_LOOK), frozenset(_LOOK | _OBJECTS), by_day=True),
    Shift("half of the classes gone", _half_of_the_classes, frozenset({"classes", "detections"}), frozenset(_OBJECTS)),
    Shift("a new class", _new_class, frozenset({"classes", "detections"}), frozenset(_OBJECTS)),
    Shift(
        "another camera's images",
        _another_camera,
        frozenset(_LOOK | {"size", "classes", "detections", "position", "area", "aspect"}),
        frozenset(_LOOK | _OBJECTS | {"size"}),
    ),
)
