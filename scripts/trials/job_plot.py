"""A plot of the trial of jobs."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from scripts.trials.jobs import Exactness


def save_job_plot(trial: Exactness, count: int, path: Path) -> Path:
    """Plot the progress of the disturbed run, with a mark for each killed process, and return the path."""
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    if trial.progress:
        axes.plot(*zip(*trial.progress, strict=True), color="#1a73e8", label="items done")
    for number, victim in enumerate(sorted({victim for _, victim in trial.kills})):
        at_s = [at for at, killed in trial.kills if killed == victim]
        axes.scatter(at_s, [count * (0.02 + 0.04 * number)] * len(at_s), marker="x", s=24, label=f"SIGKILL: {victim}")
    axes.set(
        xlabel="seconds", ylabel="items", ylim=(0, count * 1.05),
        title=f"{count} items, {trial.repeated} units begun again, {len(trial.problems)} problems",
    )  # fmt: skip
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
