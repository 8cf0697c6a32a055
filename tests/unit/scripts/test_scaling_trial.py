"""Tests of the verdicts of the scaling trial."""

from __future__ import annotations

import pytest

from scripts.trials.scale import DetectorCount, Plan, Scaling, judge

PLAN = Plan(low=20, high=120, least=1, most=4, low_s=10, hold_s=60, downscale_delay_s=30)


def trial(*wanted: tuple[float, int]) -> Scaling:
    """Return a trial whose load rises at 10 s and falls at 100 s. ``wanted`` has the time and value of each target."""
    seen = [DetectorCount(at_s, [number for from_s, number in wanted if from_s <= at_s][-1], 4) for at_s in range(200)]
    return Scaling(PLAN, seen, up_at_s=10, held_at_s=20, down_at_s=100)


def test_scaling_up_in_time_and_down_once_is_right() -> None:
    seen = trial((0, 1), (15, 3), (19, 4), (135, 1))
    assert judge(seen) == []
    assert (seen.up_s, seen.down_s, seen.changes(0, seen.end_s)) == (10, 35, [3, 4, 1])


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ([(0, 1), (5, 2), (15, 4), (135, 1)], "low load made Serve ask for 2"),
        ([(0, 1), (15, 4), (50, 3), (135, 1)], "at constant load, the number of Detectors changed to 3"),
        ([(0, 1), (15, 4), (180, 1)], "fell to 1 Detectors only 80 s after"),
        ([(0, 1), (15, 4)], "fell to 1 Detectors only inf s after"),
        ([(0, 1), (15, 4), (135, 1), (150, 2)], "at low load, the number of Detectors changed to 2"),
    ],
)
def test_each_problem_is_reported(wanted: list[tuple[float, int]], problem: str) -> None:
    (found,) = judge(trial(*wanted))
    assert problem in found


def test_a_slow_start_is_wrong() -> None:
    seen = trial((0, 1), (15, 4), (135, 1))
    seen.up_at_s, seen.held_at_s = 10, 71
    assert judge(seen) == ["4 Detectors ran only after 61 s; the limit is 60 s"]
