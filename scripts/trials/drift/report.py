"""The table and the plot of the trial of drift."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from scripts.trials.drift.trial import MAX_IMAGES, Trial


def table(trial: Trial) -> Table:
    """Return a table with one row for each kind of shift."""
    made = Table("shift", "injected", "found", "rightly named", "images until found", "features named", box=SIMPLE)
    for one in trial.injected:
        known = [count for count in one.images if count is not None]
        images = f"{np.median(known):.0f} (median), {max(known)} (most)" if known else ""
        named = Counter(name for names in one.named for name in names)
        features = ", ".join(f"{name} {count}" for name, count in named.most_common())
        made.add_row(one.name, str(len(one.images)), str(one.found), str(one.right), images, features)
    return made


def save_plot(trial: Trial, path: Path) -> Path:
    """Plot how soon shifts are found, and how far stationary traffic stays below the limits. Return the path."""
    figure, (found, stationary) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for one in trial.injected:
        known = sorted(count for count in one.images if count is not None)
        shares = np.arange(1, len(known) + 1) / max(len(one.images), 1)
        found.step(
            [0, *known, MAX_IMAGES], [0, *shares, shares[-1] if len(shares) else 0], where="post", label=one.name
        )
    found.axhline(0.95, color="#d93025", lw=1, ls="--")
    found.set(xlabel="images after the shift", ylabel="share of shifts found", xlim=(0, MAX_IMAGES), ylim=(0, 1.02))
    found.legend(fontsize=8, loc="lower right")
    names = list(trial.ratios)
    for position, name in enumerate(names):
        ratios = np.array(trial.ratios[name])
        low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.999])
        stationary.plot([low, high], [position, position], color="#1a73e8", lw=6, alpha=0.4)
        stationary.plot(middle, position, "o", color="#1a73e8")
        stationary.plot(ratios.max(), position, "x", color="#d93025")
    stationary.axvline(1, color="#d93025", lw=1, ls="--")
    stationary.set(
        yticks=range(len(names)), yticklabels=names, xlabel="PSI / limit",
        title=f"{trial.sources} stationary sources, {trial.days} days: {len(trial.alarms)} alarms", xlim=(0, None),
    )  # fmt: skip
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
