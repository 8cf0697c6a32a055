from __future__ import annotations

import pytest

from serve_app.streams.capture.timestamps import Timestamps
from tests.support.clock import Clock


@pytest.mark.parametrize("leap_s", [3600.0, -3600.0, -2.0])
def test_time_stamps_that_leap_are_one_frame_further(leap_s: float) -> None:
    stamps = Timestamps(10.0, clock_s=Clock(100.0))
    passed = [stamps.elapsed_s(5 + 0.1 * n + (leap_s if n >= 3 else 0.0)) for n in range(6)]
    assert passed == [pytest.approx(0.1 * n) for n in range(6)]


def test_frames_may_be_rare() -> None:
    clock = Clock(100.0)
    stamps = Timestamps(None, clock_s=clock)
    assert stamps.elapsed_s(0.0) == 0.0
    clock.now_s += 60
    assert stamps.elapsed_s(60.0) == 60.0
    rare = Timestamps(1 / 60, clock_s=clock)
    assert [rare.elapsed_s(stamp) for stamp in (0.0, 60.0, 120.0)] == [0.0, 60.0, 120.0]


def test_frames_without_time_stamps_are_as_old_as_they_are_here() -> None:
    clock = Clock(100.0)
    stamps = Timestamps(25.0, clock_s=clock)
    clock.now_s += 3
    assert stamps.elapsed_s(None) == 3.0


def recorded(*stamps_s: float | None, fps: float = 10.0) -> list[float]:
    """When the frames of a recording come that have these time stamps."""
    stamps = Timestamps(fps, is_recorded=True, clock_s=Clock(100.0))
    return [round(stamps.elapsed_s(stamp), 6) for stamp in stamps_s]


def test_a_recordings_frames_without_time_stamps_come_at_its_rate() -> None:
    assert recorded(None, None, None) == [0.0, 0.1, 0.2]
    assert recorded(None, None, fps=25.0) == [0.0, 0.04]


def test_a_time_stamp_that_several_frames_share_is_the_firsts() -> None:
    assert recorded(0.0, 0.0, 0.2, 0.2, 0.4) == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_time_never_goes_back() -> None:
    assert recorded(0.0, 0.2, 0.1, 0.4, 0.3) == [0.0, 0.2, 0.3, 0.4, 0.5]
    assert recorded(9.0, 8.9, 8.8, 8.7) == [0.0, 0.1, 0.2, 0.3]


def test_time_stamps_that_are_missing_here_and_there_are_made_up() -> None:
    assert recorded(0.0, None, 0.2, None, None, 0.5) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_pause_of_a_recording_is_time() -> None:
    assert recorded(0.0, 0.1, 10.1, 10.2, 610.2) == [0.0, 0.1, 10.1, 10.2, 610.2]


@pytest.mark.parametrize("leap_s", [20_000.0, 95_443.7, -100.0])
def test_a_recordings_time_stamps_that_leap_by_hours_are_one_frame_further(leap_s: float) -> None:
    assert recorded(0.0, 0.1, 0.2 + leap_s, 0.3 + leap_s) == [0.0, 0.1, 0.2, 0.3]
