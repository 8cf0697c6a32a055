"""Conversion of a source's timestamps into steadily increasing time."""

from __future__ import annotations

import time
from collections.abc import Callable

USUAL_FPS = 25.0  # assumed for a source that does not declare its frame rate
_JUMP_S = 5.0  # a larger step forward in a live source is a jump, unless its frames are that rare
_RECORDED_JUMP_S = 3600.0  # the same for a recording, which may really contain pauses of minutes
_JUMP_BACK_S = 1.0  # a larger step back is a jump, too


class Timestamps:
    """The time since the first frame, which never goes back, whatever the source's timestamps do.

    Timestamps may be missing, stand still or jump, because a camera's clock is set or a recording is spliced. A
    recording may also have real pauses, for example if a camera records only motion.

    If a timestamp of a recording is missing, does not increase or jumps, its frame comes one frame interval after the
    last one. A live source's frame without a timestamp gets its time of arrival.
    """

    def __init__(
        self, fps: float | None, *, is_recorded: bool = False, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._frame_s = 1 / (fps or USUAL_FPS)
        self._is_recorded = is_recorded
        self._jump_s = _RECORDED_JUMP_S if is_recorded else _JUMP_S
        self._clock_s = clock_s
        self._opened_at_s = self._read_at_s = clock_s()
        self._newest: tuple[float, float] | None = None  # the newest timestamp, and the elapsed time at it
        self._elapsed_s: float | None = None  # at the last frame

    def elapsed_s(self, stamp_s: float | None) -> float:
        """Return the elapsed time at the next frame, which has just been read and has this timestamp."""
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
