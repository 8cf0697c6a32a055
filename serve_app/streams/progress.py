"""A stream's state, the reason for it, and its counters."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from serve_app.schemas.decoding import DecodingStatus
from serve_app.schemas.streams import State
from serve_app.streams.bookmark import Bookmark
from serve_app.video.decoding import Decoding

_RATE_WINDOW_S = 5.0
_STALLED_AFTER_S = 3.0  # a stream stalls after this time without a frame, or after 3 frame intervals if they are longer
_BLOCKED_AFTER_S = 2.0  # a stream is blocked after this time without an answer from the Detector
_BLOCKED_SHARE = 0.8  # a stream is also blocked if it processes a smaller share of its frames than this


class Rate:
    """Measures the number of events per second over the last 5 s."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._started_at_s = clock_s()
        self._ticks_s: deque[float] = deque()  # the times of the events in the window

    def tick(self) -> None:
        """Count one event at the current time."""
        now_s = self._clock_s()
        self._ticks_s.append(now_s)
        while self._ticks_s[0] <= now_s - _RATE_WINDOW_S:
            self._ticks_s.popleft()

    def per_second(self) -> float:
        """Return the number of events per second. During the first 5 s, average over the time since the start."""
        now_s = self._clock_s()
        window_s = min(_RATE_WINDOW_S, now_s - self._started_at_s)
        recent = sum(1 for tick_s in list(self._ticks_s) if tick_s > now_s - window_s)
        return recent / window_s if window_s > 0 else 0.0


class Progress:
    """A stream's counters and health. Every captured frame is in flight until it is counted as processed or dropped.

    The capture thread updates the state of the source. The detection loop updates the state of the Detector. Any thread
    may read both.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self.captured = 0
        self.processed = 0
        self.dropped: Counter[str] = Counter()
        self._drops_lock = threading.Lock()  # needed because the capture thread and the detection loop both drop frames
        self._superseded = 0  # frames replaced by newer frames since the last ``take_superseded``
        # The ids and reasons of dropped frames that the detection loop has not reached yet.
        self._drops_ahead: deque[tuple[int, str]] = deque(maxlen=10_000)
        self.reconnects = 0
        self.passed_over = 0  # the number of files in the source's folder that are not images
        self.camera_rate = Rate(clock_s)
        self.processed_rate = Rate(clock_s)
        self.dropped_rate = Rate(clock_s)
        self._late_rate = Rate(clock_s)
        self._source: tuple[State, str] = ("starting", "")
        self.source_fps: float | None = None  # the frame rate that the source declares
        self.decoding = Decoding()  # the decoder of the source keeps it up to date
        self._detector_detail = ""
        self._reading_since_s: float | None = None  # when the capture began to wait for the source
        self._detecting_since_s: float | None = None  # when the detection loop began to wait for the Detector

    def resume(self, bookmark: Bookmark) -> None:
        """Continue with the counters of the previous process. Count its frames in flight as dropped."""
        self.captured, self.processed, self.reconnects = bookmark.next_frame_id, bookmark.processed, bookmark.reconnects
        self.dropped = Counter(bookmark.dropped)
        if (lost := self.captured - self.processed - self.dropped.total()) > 0:
            self.dropped["restart"] += lost

    def set_source_state(self, state: State, detail: str = "") -> None:
        """Set the state of the source and the reason for this state."""
        self._source = (state, detail)

    def source_opened(self, fps: float | None, passed_over: int = 0) -> None:
        """Record that the source is connected.

        ``fps`` is the frame rate that the source declares. ``passed_over`` counts the files in a folder that are not
        images.
        """
        self.source_fps, self.passed_over = fps, passed_over

    def decoding_status(self) -> DecodingStatus | None:
        """Return how the source's video is decoded, or None if it is not a video that FFmpeg decodes."""
        decoding = self.decoding
        if decoding.frames is None:
            return None
        return DecodingStatus(frames=decoding.frames, hardware=decoding.hardware, detail=decoding.detail)

    def read_started(self) -> None:
        """Record that the capture thread begins to wait for a frame."""
        self._reading_since_s = self._clock_s()

    def frame_captured(self) -> int:
        """Count one captured frame, and return its id."""
        if self._source[0] != "running":
            self._source = ("running", "")
        self.captured += 1
        self.camera_rate.tick()
        return self.captured - 1

    def read_ended(self) -> None:
        """Record that the capture thread received a frame or closed the source."""
        self._reading_since_s = None

    def detection_started(self) -> None:
        """Record that a frame is being sent to the Detector."""
        self._detecting_since_s = self._clock_s()

    def detection_refused(self, detail: str) -> None:
        """Record that the Detector refused the frame. The stream will retry the frame."""
        self._detector_detail = detail

    def detection_succeeded(self) -> None:
        """Count one processed frame."""
        self._detecting_since_s, self._detector_detail = None, ""
        self.processed += 1
        self.processed_rate.tick()

    def drop(self, reason: str, frame_id: int | None = None) -> None:
        """Count one frame that will have no result.

        The capture thread also passes ``frame_id``, so that ``dropped_up_to`` can exclude frames that the detection
        loop has not reached yet.
        """
        with self._drops_lock:
            self.dropped[reason] += 1
            if frame_id is not None:
                self._drops_ahead.append((frame_id, reason))
            self.dropped_rate.tick()
            if reason == "newer_frame":
                self._late_rate.tick()
                self._superseded += 1

    def take_superseded(self) -> int:
        """Return the number of frames that were replaced by newer frames since the last call."""
        with self._drops_lock:
            superseded, self._superseded = self._superseded, 0
        return superseded

    def dropped_up_to(self, frame_id: int) -> dict[str, int]:
        """Return the number of dropped frames by reason, up to the frame ``frame_id``.

        Each call must pass the newest frame that the detection loop has reached.
        """
        with self._drops_lock:
            while self._drops_ahead and self._drops_ahead[0][0] <= frame_id:
                self._drops_ahead.popleft()
            return dict(self.dropped - Counter(reason for _, reason in self._drops_ahead))

    def detection_failed(self, reason: str, detail: str) -> None:
        """Record that the Detector failed on the frame, and count the frame as dropped."""
        self._detecting_since_s, self._detector_detail = None, detail
        self.drop(reason)

    def complete(self) -> None:
        """Record that every frame of the source has been processed or dropped."""
        if self._source[0] in {"starting", "running"}:
            self._source = ("completed", "")

    def health(self) -> tuple[State, str]:
        """Return the stream's state and the reason for it. The reason is empty for a healthy stream."""
        state, detail = self._source
        if state not in {"starting", "running"}:
            return state, detail
        now_s = self._clock_s()
        if self._detecting_since_s is not None and now_s - self._detecting_since_s > _BLOCKED_AFTER_S:
            return "blocked", self._detector_detail or "the detector does not answer"
        if state == "starting":
            return state, detail
        stall_timeout_s = max(_STALLED_AFTER_S, 3 / self.source_fps if self.source_fps else 0)
        if self._reading_since_s is not None and now_s - self._reading_since_s > stall_timeout_s:
            return "stalled", f"no frame for {now_s - self._reading_since_s:.0f} s"
        late, processed = self._late_rate.per_second(), self.processed_rate.per_second()
        if late and processed < _BLOCKED_SHARE * (late + processed):
            return "blocked", f"the detector processes {processed:.1f} of {late + processed:.1f} frames per second"
        return state, self._detector_detail
