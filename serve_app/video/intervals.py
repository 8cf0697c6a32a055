"""Measurement of the intervals between a video's frames, and between its key frames."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any

_TOLERANCE = 1.01  # 30 frames at 29.97 frames per second are 1.001 s, which is close enough to 1 s
_KEY_INTERVALS = 2  # the number of successive short intervals after which only key frames are decoded
_MAX_KEY_INTERVAL_S = 12.0  # limits the packets that are kept in memory, and the time to decode them
_FRAMES = 25  # the frame interval is the mean over this number of frames
_MIN_SKIPPED = 5  # non-reference frames are skipped if the capture takes at most every fifth frame
_MAX_PATIENCE = 32  # the longest measurement takes 64 intervals between key frames, or 800 frames


class Intervals:
    """Measures a video, and says which frames a capture with a ``max_fps`` can do without.

    The measurement begins again if the video turns out to be irregular. If the result of the measurement was wrong,
    the next measurement takes twice as long, so that a video on which it is always wrong loses few frames.
    """

    def __init__(self, time_base: Fraction, max_fps: float) -> None:
        self._time_base = time_base
        self._take_interval_s = _TOLERANCE / max_fps
        self._patience = 1
        self._dts: int | None = None  # the last packet's timestamp in decoding order
        self.begin_again()

    def begin_again(self) -> None:
        """Forget the intervals that were measured."""
        self._stamps: deque[int] = deque(maxlen=_FRAMES)  # of the latest packets, in decoding order
        self._packets = 0
        self._key_pts: int | None = None  # of the last key frame
        self._short_key_intervals = 0  # the number of successive ones that are short enough

    def fail(self) -> None:
        """Begin again, because frames were lost or in the wrong order. Double the time if a result was in use."""
        if self._packets >= _FRAMES * self._patience or self.may_use_key_frames:
            self._patience = min(2 * self._patience, _MAX_PATIENCE)
        self.begin_again()

    def add(self, packet: Any) -> bool:
        """Add the next packet in decoding order. Return whether the source's clock was set back before it."""
        stamp = packet.pts if packet.dts is None else packet.dts
        was_set_back = None not in (packet.dts, self._dts) and packet.dts < self._dts
        if was_set_back:
            self.begin_again()
        self._dts = packet.dts
        self._stamps.append(stamp)
        self._packets += 1
        if packet.is_keyframe:
            if self._key_pts is not None:
                is_short = 0 < (packet.pts - self._key_pts) * self._time_base <= self._longest_key_interval_s
                self._short_key_intervals = self._short_key_intervals + 1 if is_short else 0
            self._key_pts = packet.pts
        return was_set_back

    @property
    def may_use_key_frames(self) -> bool:
        """Whether key frames have been close enough for long enough that a capture needs no other frame."""
        return self._short_key_intervals >= _KEY_INTERVALS * self._patience

    @property
    def may_skip(self) -> bool:
        """Whether a capture takes so few frames that it can do without the non-reference frames."""
        if self._packets < _FRAMES * self._patience:
            return False
        frame_s = (self._stamps[-1] - self._stamps[0]) * self._time_base / (_FRAMES - 1)
        return 0 < _MIN_SKIPPED * frame_s <= self._take_interval_s

    def is_late(self, pts: int) -> bool:
        """Return whether the next key frame is so late that a capture needs the frame at ``pts``, which is before it.

        This is also the case if the measurement has begun again.
        """
        return self._key_pts is None or abs(pts - self._key_pts) * self._time_base > self._longest_key_interval_s

    def is_long(self, interval: int) -> bool:
        """Return whether a capture needs a frame before an interval of the video's clock has passed."""
        return interval * self._time_base > self._take_interval_s

    @property
    def _longest_key_interval_s(self) -> float:
        return min(self._take_interval_s, _MAX_KEY_INTERVAL_S)
