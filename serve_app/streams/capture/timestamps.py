"""A source's time stamps, made to go on steadily."""

from __future__ import annotations

import time
from collections.abc import Callable

USUAL_FPS = 25.0  # assumed of a source that does not say how many frames it sends
_LEAP_S = 5.0  # a live source's time stamps that go on by more than this have leapt, unless frames are that rare,
_RECORDED_LEAP_S = 3600.0  # and a recording's, in which a pause of minutes is one,
_LEAP_BACK_S = 1.0  # and those that go back by more than this


class Timestamps:
    """Time that has passed since the first frame, by time stamps that may be missing, stand still or leap: a camera's
    clock is set, a recording is spliced. It never goes back.

    A recording may have pauses, as of a camera that records what moves, or a screen on which nothing does.

    A frame of a recording whose time stamp is missing, does not go on or leaps comes one frame's time after the last.
    A live source's frame without a time stamp is as old as it is here.
    """

    def __init__(
        self, fps: float | None, *, is_recorded: bool = False, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._frame_s = 1 / (fps or USUAL_FPS)
        self._is_recorded = is_recorded
        self._leap_s = _RECORDED_LEAP_S if is_recorded else _LEAP_S
        self._clock_s = clock_s
        self._opened_s = self._read_s = clock_s()
        self._newest: tuple[float, float] | None = None  # the newest time stamp, and what had passed then
        self._passed_s: float | None = None  # at the last frame

    def passed_s(self, stamp_s: float | None) -> float:
        """For the next frame, which has just been read."""
        now_s = self._clock_s()
        if stamp_s is None and not self._is_recorded:
            self._passed_s = max(now_s - self._opened_s, self._passed_s or 0.0)
            return self._passed_s
        passed_s = 0.0 if self._passed_s is None else self._passed_s + self._frame_s
        if stamp_s is not None:
            if self._newest is not None:
                step_s = stamp_s - self._newest[0]
                longest_s = max(self._leap_s, 10 * self._frame_s, 2 * (now_s - self._read_s))
                if 0 < step_s <= longest_s:
                    passed_s = max(self._passed_s or 0.0, self._newest[1] + step_s)
            if self._newest is None or step_s > 0 or step_s < -_LEAP_BACK_S:
                self._newest = stamp_s, passed_s
            self._read_s = now_s
        self._passed_s = passed_s
        return passed_s
