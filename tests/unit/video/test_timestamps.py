from __future__ import annotations

import pytest

from serve_app.video.timestamps import Timestamps
from tests.support.clock import Clock


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, -2.0])
def test_a_timestamp_that_jumps_counts_as_one_frame_interval(jump_s: float) -> None:
    stamps = Timestamps(10.0, clock_s=Clock(100.0))
    passed = [stamps.elapsed_s(5 + 0.1 * n + (jump_s if n >= 3 else 0.0)) for n in range(6)]
    assert passed == [pytest.approx(0.1 * n) for n in range(6)]


def test_frames_may_be_rare() -> None:
    clock = Clock(100.0)
    stamps = Timestamps(None, clock_s=clock)
    assert stamps.elapsed_s(0.0) == 0.0
    clock.now_s += 60
    assert stamps.elapsed_s(60.0) == 60.0
    rare = Timestamps(1 / 60, clock_s=clock)
    assert [rare.elapsed_s(stamp) for stamp in (0.0, 60.0, 120.0)] == [0.0, 60.0, 120.0]


def test_frames_without_timestamps_get_their_time_of_arrival() -> None:
    clock = Clock(100.0)
    stamps = Timestamps(25.0, clock_s=clock)
    clock.now_s += 3
    assert stamps.elapsed_s(None) == 3.0


def recorded(*stamps_s: float | None, fps: float = 10.0) -> list[float]:
    """Return the elapsed time of each frame of a recording with these timestamps."""
    stamps = Timestamps(fps, is_recorded=True, clock_s=Clock(100.0))
    return [round(stamps.elapsed_s(stamp), 6) for stamp in stamps_s]


def test_a_recordings_frames_without_timestamps_follow_its_frame_rate() -> None:
    assert recorded(None, None, None) == [0.0, 0.1, 0.2]
    assert recorded(None, None, fps=25.0) == [0.0, 0.04]


def test_a_timestamp_shared_by_several_frames_belongs_to_the_first() -> None:
    assert recorded(0.0, 0.0, 0.2, 0.2, 0.4) == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_time_never_goes_back() -> None:
    assert recorded(0.0, 0.2, 0.1, 0.4, 0.3) == [0.0, 0.2, 0.3, 0.4, 0.5]
    assert recorded(9.0, 8.9, 8.8, 8.7) == [0.0, 0.1, 0.2, 0.3]


def test_missing_timestamps_are_filled_in() -> None:
    assert recorded(0.0, None, 0.2, None, None, 0.5) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_pause_in_a_recording_counts_as_time() -> None:
    assert recorded(0.0, 0.1, 10.1, 10.2, 610.2) == [0.0, 0.1, 10.1, 10.2, 610.2]


@pytest.mark.parametrize("jump_s", [20_000.0, 95_443.7, -100.0])
def test_a_recordings_timestamp_that_jumps_by_hours_counts_as_one_frame_interval(jump_s: float) -> None:
    assert recorded(0.0, 0.1, 0.2 + jump_s, 0.3 + jump_s) == [0.0, 0.1, 0.2, 0.3]
