"""A short version of the trial of drift, without the folder ../shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.trials.drift.cameras import cameras
from scripts.trials.drift.report import save_plot, table
from scripts.trials.drift.trial import Trial, run_trial
from serve_app.config import DriftArgs


@pytest.fixture(scope="module")
def trial() -> Trial:
    return run_trial(
        cameras(60, seed=3, real=False),
        sources=4,
        days=10,
        images_per_hour=150,
        injections=5,
        seed=3,
        args=DriftArgs(reference_images=800),
        tell=lambda _: None,
    )


def test_stationary_traffic_raises_no_alarm(trial: Trial) -> None:
    assert trial.comparisons > 1500
    assert trial.alarms == []


def test_shifts_are_found_and_rightly_named(trial: Trial) -> None:
    right = {one.name: one.right for one in trial.injected}
    assert len(right) == 4
    assert min(right.values()) >= 4
    assert sum(right.values()) >= 19  # 95 %


def test_the_results_are_shown(trial: Trial, tmp_path: Path) -> None:
    assert table(trial).row_count == 4
    assert save_plot(trial, tmp_path / "drift.png").stat().st_size > 10_000
