"""What a stream says of itself: its state, the cause, and its counters."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from serve_app.schemas.streams import State
from serve_app.streams.bookmark import Bookmark

_RATE_WINDOW_S = 5.0
_STALLED_AFTER_S = 3.0  # of reading without a frame; a slow source has three frames' time
_BLOCKED_AFTER_S = 2.0  # of waiting for one answer,
_BLOCKED_SHARE = 0.8  # or when fewer of the frames are processed than that


class Rate:
    """Events a second over the last five seconds."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._started_s = clock_s()
        self._ticks_s: deque[float] = deque()  # of the window

    def tick(self) -> None:
        """One event, now."""
        now_s = self._clock_s()
        self._ticks_s.append(now_s)
        while self._ticks_s[0] <= now_s - _RATE_WINDOW_S:
            self._ticks_s.popleft()

    def per_second(self) -> float:
        """The rate; over the time since the start when that is shorter."""
        now_s = self._clock_s()
        window_s = min(_RATE_WINDOW_S, now_s - self._started_s)
        recent = sum(1 for tick_s in list(self._ticks_s) if tick_s > now_s - window_s)
        return recent / window_s if window_s > 0 else 0.0


class Progress:
    """A stream's counters and health. ``captured = processed + dropped``, but for the frames under way.

    The capture thread tells what the source does, the detecting loop what the Detector does; anyone may look.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self.captured = 0
        self.processed = 0
        self.dropped: Counter[str] = Counter()
        self._drops = threading.Lock()  # both sides drop frames
        self._superseded = 0  # for newer ones, that the Detector was not told of yet
        self._ahead: deque[tuple[int, str]] = deque(maxlen=10_000)  # frame ids and reasons
        self.reconnects = 0
        self.passed_over = 0  # files of the source's folder that are no pictures
        self.camera_rate = Rate(clock_s)
        self.processed_rate = Rate(clock_s)
        self.dropped_rate = Rate(clock_s)
        self._late_rate = Rate(clock_s)
        self._source: tuple[State, str] = ("starting", "")
        self.source_fps: float | None = None  # as it says itself
        self._detector_detail = ""
        self._reading_since_s: float | None = None  # the capture waits for the source,
        self._asking_since_s: float | None = None  # the detecting loop for the Detector

    def resume(self, bookmark: Bookmark) -> None:
        """Go on counting where another process ended. Frames that it had begun are lost."""
        self.captured, self.processed, self.reconnects = bookmark.next_frame_id, bookmark.processed, bookmark.reconnects
        self.dropped = Counter(bookmark.dropped)
        if (lost := self.captured - self.processed - self.dropped.total()) > 0:
            self.dropped["restart"] += lost

    def source_is(self, state: State, detail: str = "") -> None:
        """What the source does now, and why."""
        self._source = (state, detail)

    def opened(self, fps: float | None, passed_over: int = 0) -> None:
        """The source is connected and says that it sends so many frames a second. Of a folder, so many files are
        passed over: they are no pictures."""
        self.source_fps, self.passed_over = fps, passed_over

    def reading(self) -> None:
        """The capture waits for a frame from now on."""
        self._reading_since_s = self._clock_s()

    def read(self) -> int:
        """A frame is captured; returns its id."""
        if self._source[0] != "running":
            self._source = ("running", "")
        self.captured += 1
        self.camera_rate.tick()
        return self.captured - 1

    def stopped_reading(self) -> None:
        """A frame came, or the source is closed."""
        self._reading_since_s = None

    def asking(self) -> None:
        """A frame goes to the Detector."""
        self._asking_since_s = self._clock_s()

    def refused(self, detail: str) -> None:
        """The Detector did not take the frame, which waits."""
        self._detector_detail = detail

    def answered(self) -> None:
        """The frame has its result."""
        self._asking_since_s, self._detector_detail = None, ""
        self.processed += 1
        self.processed_rate.tick()

    def drop(self, reason: str, frame_id: int | None = None) -> None:
        """A frame will have no result; the capture, which is ahead of the detecting loop, says which."""
        with self._drops:
            self.dropped[reason] += 1
            if frame_id is not None:
                self._ahead.append((frame_id, reason))
            self.dropped_rate.tick()
            if reason == "newer_frame":
                self._late_rate.tick()
                self._superseded += 1

    def take_superseded(self) -> int:
        """Frames that gave way to newer ones since the last call: the Detector was too busy for them."""
        with self._drops:
            superseded, self._superseded = self._superseded, 0
        return superseded

    def dropped_until(self, frame_id: int) -> dict[str, int]:
        """What was dropped up to that frame, which is the newest that the detecting loop has seen."""
        with self._drops:
            while self._ahead and self._ahead[0][0] <= frame_id:
                self._ahead.popleft()
            return dict(self.dropped - Counter(reason for _, reason in self._ahead))

    def lost(self, reason: str, detail: str) -> None:
        """The frame that went to the Detector will have no result."""
        self._asking_since_s, self._detector_detail = None, detail
        self.drop(reason)

    def finished(self) -> None:
        """Every frame there was has had its turn."""
        if self._source[0] in {"starting", "running"}:
            self._source = ("completed", "")

    def health(self) -> tuple[State, str]:
        """The state, and why it is not ``running``."""
        state, detail = self._source
        if state not in {"starting", "running"}:
            return state, detail
        now_s = self._clock_s()
        if self._asking_since_s is not None and now_s - self._asking_since_s > _BLOCKED_AFTER_S:
            return "blocked", self._detector_detail or "the detector does not answer"
        if state == "starting":
            return state, detail
        patience_s = max(_STALLED_AFTER_S, 3 / self.source_fps if self.source_fps else 0)
        if self._reading_since_s is not None and now_s - self._reading_since_s > patience_s:
            return "stalled", f"no frame for {now_s - self._reading_since_s:.0f} s"
        late, processed = self._late_rate.per_second(), self.processed_rate.per_second()
        if late and processed < _BLOCKED_SHARE * (late + processed):
            return "blocked", f"the detector takes {processed:.1f} of {late + processed:.1f} frames a second"
        return state, self._detector_detail
