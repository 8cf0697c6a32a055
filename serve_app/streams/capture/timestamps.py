"""A source's time stamps, made to go on steadily."""

from __future__ import annotations

import time
from collections.abc import Callable

USUAL_FPS = 25.0  # assumed of a source that does not say how many frames it sends
_LEAP_S = 5.0  # time stamps that go on by more than this have leapt, unless frames are that rare,
_LEAP_BACK_S = 1.0  # and those that go back by more than this


class Timestamps:
    """Time that has passed since the first frame, by time stamps that may leap: a camera's clock is set, a recording
    is spliced. A leap counts as one frame's time. Frames without time stamps are as old as they are here."""

    def __init__(self, fps: float | None, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._frame_s = 1 / (fps or USUAL_FPS)
        self._clock_s = clock_s
        self._opened_s = self._read_s = clock_s()
        self._newest_s: float | None = None  # the last time stamp
        self._passed_s = 0.0

    def passed_s(self, stamp_s: float | None) -> float:
        """For the next frame, which has just been read."""
        now_s = self._clock_s()
        if stamp_s is None:
            return now_s - self._opened_s
        if self._newest_s is not None:
            step_s = stamp_s - self._newest_s
            longest_s = max(_LEAP_S, 10 * self._frame_s, 2 * (now_s - self._read_s))
            self._passed_s += step_s if -_LEAP_BACK_S <= step_s <= longest_s else self._frame_s
        self._newest_s, self._read_s = stamp_s, now_s
        return self._passed_s
