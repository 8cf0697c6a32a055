"""Raise and lower a load, and check that Serve's autoscaler adjusts the number of Detectors."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

import httpx
import numpy as np
import yaml

from scripts.launch import ROOT
from scripts.trials.background import in_background
from scripts.trials.loads import AdjustableLoad, Answers
from serve_app.types import Json

UP_WITHIN_S = 60.0
# Scaling down may take this much longer than downscale_delay_s, because replicas must drain and because Serve averages
# the load over time.
_DOWN_SLACK_S = 30.0
_POLL_INTERVAL_S = 0.5
_SETTLE_S = 5.0  # once all Detectors are running, they need this time to process the backlog


@dataclass(frozen=True)
class Plan:
    """The levels of the load, their durations, and the number of Detectors that each level needs."""

    low: int
    high: int
    least: int  # Detectors at low load
    most: int  # Detectors at high load
    low_s: float
    hold_s: float  # how long the high load lasts once all Detectors are running
    downscale_delay_s: float  # the setting in the config


@dataclass(frozen=True)
class DetectorCount:
    """How many Detectors were wanted and how many were running at ``at_s``, a time in seconds since the start."""

    at_s: float
    wanted: int
    running: int


@dataclass
class Scaling:
    """The results of the trial."""

    plan: Plan
    counts: list[DetectorCount]
    up_at_s: float = 0.0  # when the load rose, in seconds since the start
    held_at_s: float = 0.0  # when all Detectors were running
    down_at_s: float = 0.0  # when the load fell
    answers: Answers | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def up_s(self) -> float:
        """The time from the rise of the load until all Detectors were running."""
        return self.held_at_s - self.up_at_s

    @property
    def down_s(self) -> float:
        """The time from the fall of the load until Serve wanted only the minimum number of Detectors again."""
        few = (count.at_s for count in self.counts if count.at_s > self.down_at_s and count.wanted <= self.plan.least)
        return next(few, float("inf")) - self.down_at_s

    @property
    def end_s(self) -> float:
        """The end of the trial, in seconds since the start."""
        return self.counts[-1].at_s

    def held(self) -> str:
        """Describe the answers at high load, beginning 5 s after the last Detector has started."""
        assert self.answers is not None
        windows = zip(*asdict(self.answers).values(), strict=True)
        held = [window for window in windows if self.held_at_s + _SETTLE_S < window[0] < self.down_at_s]
        if not held:
            return "too short to measure"
        _, offered, answered, p50_s, p99_s = (np.array(column) for column in zip(*held, strict=True))
        return (
            f"{answered.mean():.1f} of {offered.mean():.1f} images/s answered, p50 {np.nanmedian(p50_s):.2f} s, "
            f"p99 {np.nanmedian(p99_s):.2f} s (median of windows), {np.nanmax(p99_s):.2f} s at most"
        )

    def changes(self, from_s: float, until_s: float) -> list[int]:
        """Return every new target number of Detectors between two times."""
        wanted = [count.wanted for count in self.counts if from_s <= count.at_s <= until_s]
        return [now for before, now in itertools.pairwise(wanted) if now != before]


def scale(
    detectors: Callable[[], tuple[int, int]], load: AdjustableLoad, plan: Plan, tell: Callable[[float], None]
) -> Scaling:
    """Apply low load, then high load, and then low load until the extra Detectors have ended.

    The high load continues for ``hold_s`` seconds once all Detectors are running.

    ``detectors`` returns how many Detectors Serve wants and how many run. ``tell`` is called with the number of seconds
    that have passed.
    """
    trial, started_at_s = Scaling(plan, [DetectorCount(0.0, *detectors())]), time.monotonic()

    def poll(stop: threading.Event) -> None:
        while not stop.wait(_POLL_INTERVAL_S):
            with suppress(httpx.HTTPError):  # Serve may be busy
                wanted, running = detectors()
                trial.counts.append(DetectorCount(time.monotonic() - started_at_s, wanted, running))

    def wait(seconds: float, until: Callable[[DetectorCount], bool] = lambda _: False) -> float:
        """Wait until a condition holds or the time has passed, and return the seconds since the start."""
        expires_at_s = time.monotonic() + seconds
        while time.monotonic() < expires_at_s and not until(trial.counts[-1]):
            time.sleep(_POLL_INTERVAL_S)
            tell(time.monotonic() - started_at_s)
        return time.monotonic() - started_at_s

    with in_background(poll):
        try:
            load.offer(plan.low)
            trial.up_at_s = wait(plan.low_s)
            load.offer(plan.high)
            trial.held_at_s = wait(2 * UP_WITHIN_S, lambda count: count.running >= plan.most)
            trial.down_at_s = wait(plan.hold_s)
            load.offer(plan.low)
            wait(plan.downscale_delay_s + 2 * _DOWN_SLACK_S, lambda count: count.wanted <= plan.least >= count.running)
            wait(plan.low_s)
        finally:
            load.offer(0)
    trial.answers = load.answers(started_at_s)
    trial.problems = load.problems() + judge(trial)
    return trial


def judge(trial: Scaling) -> list[str]:
    """Return what was wrong with the number of Detectors."""
    plan, problems = trial.plan, []
    if extra := [number for number in trial.changes(0, trial.up_at_s) if number > plan.least]:
        problems.append(f"low load made Serve ask for {max(extra)} Detectors, more than {plan.least}")
    if trial.up_s > UP_WITHIN_S:
        problems.append(f"{plan.most} Detectors ran only after {trial.up_s:.0f} s; the limit is {UP_WITHIN_S:g} s")
    if changes := trial.changes(trial.held_at_s, trial.down_at_s):
        problems.append(f"at constant load, the number of Detectors changed to {', '.join(map(str, changes))}")
    if trial.down_s > plan.downscale_delay_s + _DOWN_SLACK_S:
        problems.append(f"the target fell to {plan.least} Detectors only {trial.down_s:.0f} s after the load fell")
    if changes := trial.changes(trial.down_at_s + trial.down_s, trial.end_s):
        problems.append(f"at low load, the number of Detectors changed to {', '.join(map(str, changes))}")
    return problems


def scaling_config(*, max_batch_size: int, plan: Plan) -> Json:
    """Return configs/gpu.yaml with an engine that sleeps for 0.2 s per batch, and with a shorter downscale delay."""
    config: Json = yaml.safe_load((ROOT / "configs/gpu.yaml").read_text())
    (application,) = config["applications"]
    application["args"] |= {"model": {"engine": "sleep"}}
    application["args"]["batcher"]["max_batch_size"] = max_batch_size
    (detector,) = (one for one in application["deployments"] if one["name"] == "Detector")
    bounds = {"min_replicas": plan.least, "max_replicas": plan.most, "downscale_delay_s": plan.downscale_delay_s}
    detector["autoscaling_config"] |= bounds
    return config
