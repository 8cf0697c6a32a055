"""A table and a plot of the trial of the scene health."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from scripts.trials.scene_faults import FAULTS
from scripts.trials.scene_health import MIN_FOUND, WITHIN_S, Harmless, Injection, SceneTrial
from serve_app.schemas.scene import ALARMS


def fault_table(trial: SceneTrial) -> Table:
    """Return a table with a row for each kind of fault."""
    table = Table(
        "fault", "state", "found and rightly named", "after another name", "median s", "longest s", "not found",
        "only another name", box=SIMPLE,
    )  # fmt: skip
    for kind, (state, _) in FAULTS.items():
        injected = [one for one in trial.injections if one.kind == kind]
        delays = _delays(injected)
        missed = [one for one in injected if one.found_after_s is None]
        others = ", ".join(sorted(f"{one.named} ({one.source})" for one in missed if one.named))
        times = (f"{np.median(delays):.0f}", f"{max(delays):.0f}") if delays else ("", "")
        unseen = str(sum(one.named is None for one in missed))
        renamed = sum(one.found_after_s is not None and one.named != state for one in injected)
        table.add_row(kind, state, f"{len(delays)} of {len(injected)}", str(renamed), *times, unseen, others)
    return table


def harmless_table(harmless: list[Harmless]) -> Table:
    """Return a table with a row for each source of harmless video."""
    table = Table("source", "minutes", "ok", "suspicious", "alarms", "resampled alarms", box=SIMPLE)
    for one in harmless:
        seconds = max(len(one.found), 1)
        suspicious = sum(found in ALARMS for found in one.found)
        table.add_row(
            one.source,
            f"{seconds / 60:.0f}",
            f"{one.found.count('ok') / seconds:.1%}",
            f"{suspicious / seconds:.2%}",
            _counts(one.alarms),
            _counts(one.resampled_alarms),
        )
    return table


def save_scene_plot(trial: SceneTrial, path: Path) -> Path:
    """Plot after how many seconds each fault was found, and what the harmless video looked like. Return the path."""
    figure, (found, harmless) = plt.subplots(1, 2, figsize=(13, 5.2), layout="constrained", width_ratios=(1, 1.2))
    rng = np.random.default_rng(0)
    labels, colours = [], []
    for row, kind in enumerate(FAULTS):
        injected = [one for one in trial.injections if one.kind == kind]
        delays = _delays(injected)
        found.scatter(delays, row + rng.uniform(-0.25, 0.25, len(delays)), s=8, color="#1a73e8", alpha=0.6)
        labels.append(f"{kind}: {len(delays)} of {len(injected)}")
        colours.append("#d93025" if len(delays) < MIN_FOUND * len(injected) else "black")
    found.axvline(WITHIN_S, color="#d93025", linewidth=1)
    found.set(title="found and rightly named", xlabel="seconds after the fault", xlim=(0, WITHIN_S + 2))
    found.set_yticks(range(len(labels)), labels)
    for label, colour in zip(found.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
    found.invert_yaxis()
    names = [f"{one.source}: {one.resampled_alarms.total()} alarms" for one in trial.harmless]
    shares = [100 * sum(seen in ALARMS for seen in one.found) / max(len(one.found), 1) for one in trial.harmless]
    colours = ["#d93025" if one.resampled_alarms else "#9aa0a6" for one in trial.harmless]
    harmless.barh(range(len(names)), shares, color=colours)
    harmless.set(
        title="harmless video: alarms in 90 days", xlabel="% of samples that are suspicious before confirmation"
    )
    harmless.set_yticks(range(len(names)), names, fontsize=8)
    harmless.invert_yaxis()
    for axes in (found, harmless):
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _delays(injected: list[Injection]) -> list[float]:
    return [one.found_after_s for one in injected if one.found_after_s is not None]


def _counts(alarms: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in alarms.items()) or "0"
