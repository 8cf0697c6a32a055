"""The trial of the scene health, with few faults and little harmless video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.trials.scene_faults import FAULTS
from scripts.trials.scene_health import MAX_ALARMS, Harmless, resample, scene_health
from scripts.trials.scene_plot import fault_table, harmless_table, save_scene_plot
from serve_app.schemas.scene import SceneState


@pytest.mark.only_with_chaos  # the tests of the scene's health show the same faults
def test_faults_are_found_and_harmless_video_is_no_alarm(tmp_path: Path, chaos: bool) -> None:
    faults, harmless_s = (100, 3600) if chaos else (1, 90)
    trial = scene_health(faults, harmless_s, 24, lambda done: None)
    missed = [one for one in trial.injections if one.found_after_s is None]
    # One fault of each kind is too few for a share of 95 % to mean anything.
    assert trial.problems == [] if chaos else len(missed) <= 1
    assert trial.alarms <= MAX_ALARMS
    assert len(trial.injections) == faults * len(FAULTS)
    assert all(len(one.found) == harmless_s for one in trial.harmless)
    assert fault_table(trial).row_count == len(FAULTS)
    assert harmless_table(trial.harmless).row_count == len(trial.harmless)
    assert save_scene_plot(trial, tmp_path / "plot.png").stat().st_size > 10_000


def test_seconds_between_suspicious_ones_count_in_virtual_time_although_they_are_skipped() -> None:
    # A run that ends with its block must not meet the next run, hundreds of seconds later, as if they were one.
    ok: list[SceneState] = ["ok"] * 393
    close: list[SceneState] = ["covered"] * 7
    harmless = Harmless("people close to the lens", (ok + close) * 9)
    resample(harmless, 20, np.random.default_rng(0))
    assert not harmless.resampled_alarms


def test_a_stream_that_is_created_at_night_is_dark_once_and_not_in_every_block() -> None:
    night: list[SceneState] = ["dark"] * 900
    day: list[SceneState] = ["ok"] * 2700
    harmless = Harmless("day and night", night + day)
    resample(harmless, 2, np.random.default_rng(0))
    assert not harmless.resampled_alarms


def test_a_stream_that_shows_only_night_has_no_usual_view_yet() -> None:
    learning: list[SceneState] = ["unknown"] * 26
    night: list[SceneState] = ["dark"] * 64
    harmless = Harmless("rain by day and night", learning + night)
    resample(harmless, 2, np.random.default_rng(0))
    assert not harmless.resampled_alarms
