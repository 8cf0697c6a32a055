"""The trial of the scene health: faults that must be found, and harmless video that must not raise an alarm.

It drives the check itself with frames, in virtual time and without a server.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from scripts.launch import ROOT
from scripts.trials.scene_faults import FAULTS
from scripts.trials.scene_views import ALL, Camera, Conditions, Photographs, Picture, Rng, through_h264, video
from scripts.trials.stage import Tell
from serve_app.schemas.scene import ALARMS, SceneHealthSettings, SceneMemory, SceneState
from serve_app.streams.scene.confirmation import Confirmation
from serve_app.streams.scene.health import HealthCheck
from serve_app.types import Frame, Position

WITHIN_S = 30
MIN_FOUND = 0.95
MAX_ALARMS = 5
SOURCES, DAYS = 20, 90
BLOCK_S = 600
_LEARNED_S = 45
_NEAR_S = 30  # longer than the confirmation of a state
_VIDEOS = ROOT.parent / "shared/videos"  # real videos, if they are available
# By night or without its lamp, a camera may see too little for some of the faults, and the check then says so.
_LIT = tuple(one for one in ALL if not one.day_and_night and one.lamp < 0.5)


@dataclass(frozen=True)
class Injection:
    """One injected fault, and what the check said about it."""

    kind: str
    source: str
    unjudged: int  # how many other sources were drawn before, of which the check said that it cannot judge them
    named: SceneState | None  # the first alarm within 30 s, or None
    found_after_s: float | None  # how long after the fault it was rightly named, or None


@dataclass
class Harmless:
    """What the check found in each second of one source's harmless video, and the alarms that it raised."""

    source: str
    found: list[SceneState] = field(default_factory=list)
    alarms: Counter[str] = field(default_factory=Counter)
    resampled_alarms: Counter[str] = field(default_factory=Counter)  # in 90 days of virtual time


@dataclass
class SceneTrial:
    """The results of the trial."""

    injections: list[Injection] = field(default_factory=list)
    harmless: list[Harmless] = field(default_factory=list)
    sample_ms: float = 0.0  # CPU time of a look at a 1080p frame
    problems: list[str] = field(default_factory=list)

    @property
    def alarms(self) -> int:
        """The number of false alarms in all sources' virtual time."""
        return sum(one.resampled_alarms.total() for one in self.harmless)


class Watched:
    """A check that sees one picture per second."""

    def __init__(self) -> None:
        self.check = HealthCheck(SceneHealthSettings(), SceneMemory())
        self._second = 0

    @property
    def state(self) -> SceneState:
        return self.check.health.state

    def show(self, picture: Picture) -> bool:
        """Return whether the state changed with this picture."""
        frame = Frame(self._second, float(self._second), float(self._second), Position(0, 0.0), lambda: picture)
        self._second += 1
        return self.check.update(frame, picture) is not None


def scene_health(faults: int, harmless_s: int, seed: int, tell: Tell, days: int = DAYS) -> SceneTrial:
    """Inject ``faults`` faults of each kind, and show ``harmless_s`` seconds of harmless video of each source.

    Each kind of fault and each source has random numbers of its own, so none depends on what came before it.
    """
    trial = SceneTrial(sample_ms=cost_ms())
    for number, kind in enumerate(FAULTS):
        rng = np.random.default_rng((seed, number))
        for _ in range(faults):
            trial.injections.append(inject(kind, rng))
        found = sum(one.found_after_s is not None for one in trial.injections if one.kind == kind)
        if found < MIN_FOUND * faults:
            trial.problems.append(f"{kind}: {found} of {faults} found and rightly named within {WITHIN_S} s")
        tell((number + 1) / len(FAULTS) / 2)
    for number in range(SOURCES):
        rng = np.random.default_rng((seed, len(FAULTS) + number))
        trial.harmless.append(watch(number, harmless_s, rng))
        resample(trial.harmless[-1], days, rng)
        tell(0.5 + (number + 1) / SOURCES / 2)
    if trial.alarms > MAX_ALARMS:
        trial.problems.append(f"{trial.alarms} false alarms in {days} days of {SOURCES} sources")
    return trial


def inject(kind: str, rng: Rng) -> Injection:
    """Show harmless video until a random time, and then the same video with a fault for 30 s."""
    expected, fault_of = FAULTS[kind]
    unjudged = -1
    state: SceneState = "unknown"
    while state != "ok":  # the check says of some views that it cannot judge them, such as of a bare road
        unjudged += 1
        name, pictures = _lit_source(rng)
        watched = Watched()
        for picture in islice(pictures, _LEARNED_S + int(rng.integers(45))):
            watched.show(picture)
        state = watched.state
    fault = fault_of(rng, Photographs(rng).view())
    named: SceneState | None = None
    for second, picture in enumerate(islice(pictures, WITHIN_S), 1):
        watched.show(fault(picture))
        if watched.state in ALARMS and named is None:
            named = watched.state
        if watched.state == expected:
            return Injection(kind, name, unjudged, named, float(second))
    return Injection(kind, name, unjudged, named, None)


def _lit_source(rng: Rng) -> tuple[str, Iterator[Picture]]:
    real = sorted(_VIDEOS.glob("*.mp4"))
    number = int(rng.integers(len(_LIT) + len(real)))
    if number < len(real):
        pictures = video(real[number])
        return "real video", islice(pictures, int(rng.integers(60)), None)
    conditions = _LIT[number - len(real)]
    camera = Camera(Photographs(rng).view(), conditions, copy.deepcopy(rng))
    return conditions.name, camera.pictures(10_000)


def watch(number: int, duration_s: int, rng: Rng) -> Harmless:
    """Show the check ``duration_s`` seconds of harmless video of one source."""
    real = sorted(_VIDEOS.glob("*.mp4"))
    pictures: Iterator[Picture]
    with TemporaryDirectory() as folder:
        if number < len(real):
            name, pictures = "real video", islice(video(real[number]), duration_s)
        else:
            conditions: Conditions = ALL[number % len(ALL)]
            name = conditions.name
            pictures = Camera(Photographs(rng).view(), conditions, rng).pictures(duration_s)
            if number >= SOURCES - len(ALL) // 2:  # half of the second round
                name += ", H.264"
                pictures = through_h264(pictures, duration_s, Path(folder) / "a.mp4")
        watched, harmless = Watched(), Harmless(name)
        for picture in pictures:
            changed = watched.show(picture)
            if changed and watched.state in ALARMS:
                harmless.alarms[watched.state] += 1
            harmless.found.append(watched.check.found)
    return harmless


def resample(harmless: Harmless, days: int, rng: Rng) -> None:
    """Count the alarms in ``days`` of virtual time, which consist of random blocks of the source's video.

    The seconds before the check knows the usual view occur once in a stream's life, so they are left out.
    """
    found = harmless.found[_beginning(harmless.found) :]
    starts = np.arange(0, max(len(found) - BLOCK_S, 0) + 1, 60)
    # Where nothing within this time is suspicious, the confirmation has nothing to decide, and we skip the seconds. We
    # never skip the edges of a block, because what is skipped there would have separated it from the next block.
    suspicious = np.flatnonzero([state in ALARMS for state in found])
    if not len(suspicious):
        return
    decided = np.zeros(len(found), bool)
    for second in suspicious:
        decided[max(second - _NEAR_S, 0) : second + _NEAR_S] = True
    seconds = []
    for start in starts:
        block = decided[start : start + BLOCK_S].copy()
        block[:_NEAR_S] = block[-_NEAR_S:] = True
        seconds.append(start + np.flatnonzero(block))
    confirmation, at_s = Confirmation("ok"), 0
    for block in rng.integers(len(starts), size=days * 86_400 // BLOCK_S):
        for second in seconds[block]:
            before = confirmation.state
            state = confirmation.update(found[second], float(at_s + second - starts[block]))
            if state != before and state in ALARMS:
                harmless.resampled_alarms[state] += 1
        at_s += BLOCK_S


def _beginning(found: list[SceneState]) -> int:
    """Return for how many seconds the new stream has no usual view yet. A stream that is created by night is dark."""
    return next((second for second, state in enumerate(found) if state not in {"unknown", "dark"}), len(found))


def cost_ms(count: int = 200) -> float:
    """Return the CPU milliseconds that the check needs for one sample of a 1080p video."""
    rng = np.random.default_rng(0)
    view = cv2.resize(Photographs(rng).view(), (1920, 1080), interpolation=cv2.INTER_CUBIC)
    pictures = [np.clip(view + rng.normal(0, 3, view.shape), 0, 255).astype(np.uint8) for _ in range(4)]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as in a stream's process
    try:
        watched = Watched()
        for number in range(40):
            watched.show(pictures[number % 4])
        started_s = time.process_time()
        for number in range(count):
            watched.show(pictures[number % 4])
        return (time.process_time() - started_s) / count * 1e3
    finally:
        cv2.setNumThreads(threads)
