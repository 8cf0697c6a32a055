"""The trial itself: watch stationary sources in virtual time, then inject shifts into copies of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from scripts.trials.drift.cameras import Camera
from scripts.trials.drift.shifts import SHIFTS, Shift
from scripts.trials.drift.sources import Rng, Source, resample, sums_of
from serve_app.config import DriftArgs
from serve_app.drift.watched import Together, Watched

CHUNK_IMAGES = 25
MAX_IMAGES = 200  # within which a shift must be found
MAX_ALARMS = 5
MIN_FOUND = 0.95
_HOURS, _HOUR_S = 24, 3600
_WARM_CHUNKS = 20  # of stationary images before a shift, at the hour of the shift


@dataclass
class Injected:
    """The results of one kind of shift."""

    name: str
    images: list[int | None] = field(default_factory=list)  # until it was found; None if it was not
    named: list[tuple[str, ...]] = field(default_factory=list)  # the features after ``MAX_IMAGES`` images
    right: int = 0  # found in time and rightly named

    @property
    def found(self) -> int:
        """How many shifts were found in time."""
        return sum(count is not None for count in self.images)


@dataclass
class Trial:
    """The results of the whole trial."""

    sources: int
    days: int
    images: int = 0
    comparisons: int = 0
    alarms: list[str] = field(default_factory=list)  # each event that a drift began or that other features drift
    ratios: dict[str, list[float]] = field(default_factory=dict)  # PSI / limit by feature, without drift
    injected: list[Injected] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Describe each requirement that is not met."""
        found = []
        if len(self.alarms) > MAX_ALARMS:
            found.append(f"stationary traffic raised {len(self.alarms)} alarms, more than {MAX_ALARMS}")
        for one in self.injected:
            if one.right < MIN_FOUND * len(one.images):
                found.append(f"{one.name}: {one.right} of {len(one.images)} were found and rightly named")
        return found


def run_trial(
    kinds: list[Camera],
    *,
    sources: int,
    days: int,
    images_per_hour: int,
    injections: int,
    seed: int,
    args: DriftArgs,
    tell: Callable[[float], None],
) -> Trial:
    """Watch ``sources`` stationary sources for ``days``, and then inject ``injections`` shifts of each kind.

    ``tell`` is called with the number of days and injections that are done.
    """
    rng = np.random.default_rng([seed, 5])
    made = [Source(kinds[number % len(kinds)], seed * 1000 + number) for number in range(sources)]
    watched = [Watched("1", args, by_hour=True) for _ in made]
    trial, together = Trial(sources, days), Together()
    for day in range(days):
        for hour in range(_HOURS):
            now_s = (day * _HOURS + hour) * _HOUR_S
            for number, (source, one) in enumerate(zip(made, watched, strict=True)):
                if source.next_hour():
                    count = int(rng.poisson(images_per_hour))
                    _watch(trial, f"source {number} ({source.camera.name}), day {day}", source, one, hour, count, now_s)
            change = together.compare(watched, args, now_s)
            if change in {"began", "changed"}:
                trial.alarms.append(f"all sources, day {day}: {', '.join(together.alarm.named())}")
        tell(day + 1)
    for kind, shift in enumerate(SHIFTS):
        results = Injected(shift.name)
        for number in range(injections):
            _inject(results, shift, made, watched, np.random.default_rng([seed, 6, kind, number]))
            tell(days + kind * injections + number + 1)
        trial.injected.append(results)
    return trial


def _watch(trial: Trial, where: str, source: Source, one: Watched, hour: int, count: int, now_s: float) -> None:
    trial.images += count
    while count:
        length = min(CHUNK_IMAGES, count)
        figures = one.figures
        change = one.add(hour, source.images(hour, length), now_s)
        if one.figures is not figures:
            trial.comparisons += 1
            for name, figure in one.figures.items():
                if figure.psi is not None and figure.limit is not None:
                    trial.ratios.setdefault(name, []).append(figure.psi / figure.limit)
        if change in {"began", "changed"}:
            named = ", ".join(f"{name} {one.alarm.features[name]:.2f}" for name in one.alarm.named())
            trial.alarms.append(f"{where}, hour {hour}: {named}")
        count -= length


def _inject(results: Injected, shift: Shift, sources: list[Source], watched: list[Watched], rng: Rng) -> None:
    """Inject one shift at a random time into a copy of a random source, and note whether it is found."""
    number = int(rng.integers(len(sources)))
    source, one = sources[number].copy(rng), copy.deepcopy(watched[number])
    hours = [hour for hour in range(_HOURS) if not (shift.by_day and source.is_night(hour))]
    hour = hours[rng.integers(len(hours))]
    one.alarm.clear()
    source.next_hour()
    for _ in range(int(rng.integers(_WARM_CHUNKS, 2 * _WARM_CHUNKS))):
        one.add(hour, source.images(hour, int(rng.integers(1, CHUNK_IMAGES + 1))), 0.0)
    one.alarm.clear()
    shifted = sums_of(shift.images(source, sources, hour, rng))
    sent, found = 0, None
    while sent < MAX_IMAGES:
        length = min(int(rng.integers(1, CHUNK_IMAGES + 1)), MAX_IMAGES - sent)
        one.add(hour, resample(rng, shifted, length), 0.0)
        sent += length
        if found is None and one.alarm.features:
            found = sent
    named = tuple(one.alarm.named())
    results.images.append(found)
    if named:
        results.named.append(named)
        results.right += bool(shift.main & set(named)) and set(named) <= shift.possible
