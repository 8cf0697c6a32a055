"""The trial of the scene health, with few faults and little harmless video."""

from __future__ import annotations

from pathlib import Path

from scripts.trials.scene_faults import FAULTS
from scripts.trials.scene_health import MAX_ALARMS, scene_health
from scripts.trials.scene_plot import fault_table, harmless_table, save_scene_plot


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
