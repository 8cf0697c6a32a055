"""Run the trial of drift, and print its results."""

from __future__ import annotations

from argparse import Namespace

from scripts.trials.drift.cameras import cameras
from scripts.trials.drift.report import save_plot, table
from scripts.trials.drift.shifts import SHIFTS
from scripts.trials.drift.trial import run_trial
from scripts.trials.stage import FOLDER, console, progress
from serve_app.config import DriftArgs

_SOURCES, _DAYS, _IMAGES_PER_HOUR = 20, 90, 90
_IMAGES = 100  # of each camera
_SEED = 24


def run_drift(times: int, options: Namespace) -> list[str]:
    """Check that shifts are found, and that stationary traffic raises no alarms. This needs no server."""
    seed = _SEED if options.seed is None else options.seed
    with console.status("measuring images"):
        kinds = cameras(_IMAGES, seed, real=True)
    console.print(f"--seed {seed}; cameras: {', '.join(camera.name for camera in kinds)}")
    with progress("drift", _DAYS + len(SHIFTS) * times) as tell:
        trial = run_trial(
            kinds,
            sources=_SOURCES,
            days=_DAYS,
            images_per_hour=_IMAGES_PER_HOUR,
            injections=times,
            seed=seed,
            args=DriftArgs(),
            tell=tell,
        )
    console.print(table(trial))
    console.print(
        f"stationary: {trial.sources} sources, {trial.days} days, {trial.images} images, {trial.comparisons} "
        f"comparisons, {len(trial.alarms)} alarms"
    )
    for alarm in trial.alarms:
        console.print(f"  {alarm}")
    console.print(f"plot: {save_plot(trial, FOLDER / 'drift.png')}")
    return trial.problems
