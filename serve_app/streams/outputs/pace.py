"""The highest rate of frames that an output takes from its stream."""

from __future__ import annotations

_TOLERANCE = 0.95  # frames that come a little early are taken, because cameras are not exact


class Pace:
    """Says which frames to leave out, so that at most ``max_fps`` frames are taken per second."""

    def __init__(self, max_fps: float) -> None:
        self._pause_s = _TOLERANCE / max_fps
        self._due_s = 0.0  # frames that were captured earlier than this come too soon

    def comes_too_soon(self, captured_at_s: float) -> bool:
        """Return whether to leave out a frame. If not, the next one must come a pause later."""
        if 0 < self._due_s - captured_at_s <= self._pause_s:  # a larger difference: the wall clock was set back
            return True
        self._due_s = captured_at_s + self._pause_s
        return False
