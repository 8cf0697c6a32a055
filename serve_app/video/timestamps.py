"""Conversion of a source's timestamps into a time that never goes back."""

from __future__ import annotations

import time
from collections.abc import Callable

USUAL_FPS = 25.0  # assumed for a source that does not declare its frame rate
_JUMP_S = 5.0  # in a live source, a larger step forward is a jump, unless frames are very rare
_RECORDED_JUMP_S = 3600.0  # the same limit for a recording, which may have real pauses of minutes
_JUMP_BACK_S = 1.0  # a larger step back means that the source's clock was set back


class Timestamps:
    """Converts a source's timestamps into the elapsed time since the first frame. This time never goes back.

    A timestamp may be missing, may repeat the previous one, or may jump, for example because a camera's clock was set
    or a recording was spliced. A recording may also have real pauses, for example if a camera records only motion.

    If a timestamp jumps or does not increase, its frame is placed one frame interval after the previous frame. The same
    applies to a missing timestamp in a recording. In a live source, a frame without a timestamp gets its arrival time.
    """

    def __init__(
        self, fps: float | None, *, is_recorded: bool = False, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._frame_s = 1 / (fps or USUAL_FPS)
        self._is_recorded = is_recorded
        self._jump_s = _RECORDED_JUMP_S if is_recorded else _JUMP_S
        self._clock_s = clock_s
        self._opened_at_s = self._read_at_s = clock_s()
        self._newest: tuple[float, float] | None = None  # the newest timestamp, and its elapsed time
        self._elapsed_s: float | None = None  # the last frame's elapsed time

    def elapsed_s(self, stamp_s: float | None) -> float:
        """Return the elapsed time of the frame that has just been read. ``stamp_s`` is the frame's timestamp."""
        now_s = self._clock_s()
        if stamp_s is None and not self._is_recorded:
            self._elapsed_s = max(now_s - self._opened_at_s, self._elapsed_s or 0.0)
            return self._elapsed_s
        elapsed_s = 0.0 if self._elapsed_s is None else self._elapsed_s + self._frame_s
        if stamp_s is not None:
            if self._newest is not None:
                step_s = stamp_s - self._newest[0]
                longest_s = max(self._jump_s, 10 * self._frame_s, 2 * (now_s - self._read_at_s))
                if 0 < step_s <= longest_s:
                    elapsed_s = max(self._elapsed_s or 0.0, self._newest[1] + step_s)
            if self._newest is None or step_s > 0 or step_s < -_JUMP_BACK_S:
                self._newest = stamp_s, elapsed_s
            self._read_at_s = now_s
        self._elapsed_s = elapsed_s
        return elapsed_s
