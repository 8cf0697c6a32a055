"""A plot of the scaling trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from scripts.trials.scale import Scaling

_OFFERED, _ANSWERED, _SLOWEST = "#9aa0a6", "#1a73e8", "#d93025"


def save_plot(trials: Mapping[str, Scaling], path: Path) -> Path:
    """Plot load, Detectors and latency over time, with one column for each trial, and return the path."""
    figure, columns = plt.subplots(
        3, len(trials), figsize=(5.5 * len(trials), 7), sharex="col", squeeze=False, layout="constrained"
    )
    for (title, trial), (load, detectors, latency) in zip(trials.items(), columns.T, strict=True):
        answers = trial.answers
        assert answers is not None
        load.step(answers.at_s, answers.offered_per_s, where="pre", color=_OFFERED, label="offered")
        load.plot(answers.at_s, answers.answered_per_s, color=_ANSWERED, label="answered")
        load.set(title=title, ylabel="images per second", ylim=(0, None))
        at_s = [count.at_s for count in trial.counts]
        running = [count.running for count in trial.counts]
        detectors.fill_between(at_s, running, step="post", color=_ANSWERED, alpha=0.4, label="running")
        detectors.step(
            at_s, [count.wanted for count in trial.counts], where="post", color="black", lw=1, label="wanted"
        )
        detectors.set(ylabel="Detectors", ylim=(0, trial.plan.most + 0.5), yticks=range(trial.plan.most + 1))
        for label, seconds, color in (("p50", answers.p50_s, _ANSWERED), ("p99", answers.p99_s, _SLOWEST)):
            known = [(at, one) for at, one in zip(answers.at_s, seconds, strict=True) if not math.isnan(one)]
            latency.plot(*zip(*known, strict=True), color=color, label=label)
        latency.set(xlabel="seconds", ylabel="latency, s", ylim=(0, None), xlim=(0, trial.end_s))
        for axes in (load, detectors, latency):
            for step_s in (trial.up_at_s, trial.down_at_s):
                axes.axvline(step_s, color="black", lw=0.6, ls=":")
            axes.grid(axis="y", alpha=0.3)
            axes.legend(loc="upper left" if axes is detectors else "upper right", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
