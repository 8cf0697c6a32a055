"""The continuous capture loop: source -> letterboxed slot -> the waiting place, in a thread of its own."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from serve_app.errors import ServeAppError, SourceError
from serve_app.frames import Slot
from serve_app.letterbox import letterbox
from serve_app.streams.source import Source, frames
from serve_app.types import Letterbox

logger = logging.getLogger("ray.serve")

Policy = Literal["wait", "drop_oldest"]
State = Literal["starting", "running", "reconnecting", "completed", "failed"]
_BACKOFF_S = (0.5, 30.0)  # first and longest pause before a live source is tried again
_RATE_WINDOW_S = 5.0


@dataclass(frozen=True)
class Captured:
    """A frame in its slot, on its way to the Detector. Whoever takes it gives the slot back."""

    slot: Slot
    box: Letterbox
    frame_id: int
    captured_at_s: float  # wall clock
    letterbox_s: float


class Rate:
    """Events a second over the last five seconds."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._started_s = clock_s()
        self._ticks_s: deque[float] = deque(maxlen=4096)

    def tick(self) -> None:
        """One event, now."""
        self._ticks_s.append(self._clock_s())

    def per_second(self) -> float:
        """The rate; over the time since the start when that is shorter."""
        now_s = self._clock_s()
        window_s = min(_RATE_WINDOW_S, now_s - self._started_s)
        recent = sum(1 for tick_s in list(self._ticks_s) if tick_s > now_s - window_s)
        return recent / window_s if window_s > 0 else 0.0


@dataclass
class Progress:
    """A stream's state and counters. ``captured = processed + dropped``, but for the frames under way.

    The capture thread writes what the source does, the detecting one what the Detector does.
    """

    state: State = "starting"
    source_detail: str = ""
    detector_detail: str = ""
    captured: int = 0
    processed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    reconnects: int = 0
    camera_rate: Rate = field(default_factory=Rate)
    processed_rate: Rate = field(default_factory=Rate)
    dropped_rate: Rate = field(default_factory=Rate)

    def drop(self, reason: str) -> None:
        """One frame will have no result."""
        self.dropped[reason] += 1
        self.dropped_rate.tick()


class WaitingPlace:
    """Room for one captured frame between two threads. When it is full, a put waits or replaces what is there."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._captured: Captured | None = None
        self._is_closed = False

    def put(self, captured: Captured, *, wait: bool) -> Captured | None:
        """Leave a frame; returns the one that will not be taken: the replaced one, or this one after ``close``."""
        with self._changed:
            while wait and self._captured is not None and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return captured
            replaced, self._captured = self._captured, captured
            self._changed.notify_all()
            return replaced

    def take(self) -> Captured | None:
        """The frame that waits, as soon as there is one; None once closed and empty."""
        with self._changed:
            while self._captured is None and not self._is_closed:
                self._changed.wait()
            taken, self._captured = self._captured, None
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Nothing more comes. What waits may still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def _pause_s(failures: int) -> float:
    """How long to wait after so many failures in a row: doubled each time, up to a bound."""
    first_s, longest_s = _BACKOFF_S
    return min(longest_s, first_s * 2.0 ** min(failures, 16))


class Capture:
    """Reads a source until it ends or ``stop``. A live source that goes away is opened again, forever."""

    def __init__(
        self, source: Source, *, policy: Policy, loop: bool, take_slot: Callable[[], Slot], progress: Progress
    ) -> None:
        self._source = source
        self._policy = policy
        self._loop = loop
        self._take_slot = take_slot
        self._progress = progress
        self._place = WaitingPlace()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the frame that is being read."""
        self._stopped.set()
        self._place.close()

    def take(self) -> Captured | None:
        """The next frame to detect, as soon as there is one; None at the end."""
        return self._place.take()

    def _run(self) -> None:
        try:
            self._read_until_the_end()
        except Exception as exc:  # the thread's last words: without them the stream would stand still unnoticed
            logger.exception("capturing %s failed", self._source.name)
            self._fail(f"internal error: {type(exc).__name__}")
        finally:
            self._place.close()

    def _read_until_the_end(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            before = self._progress.captured
            try:
                self._read_once()
                reason = f"{self._source.name} ended"
            except SourceError as exc:
                if not self._source.is_live:
                    self._fail(exc.detail)
                    return
                reason = exc.detail
            if not self._source.is_live:
                if self._loop:
                    continue
                return  # completed, once whoever takes has taken what waits
            failures = 0 if self._progress.captured > before else failures + 1
            self._progress.state, self._progress.source_detail = "reconnecting", reason
            self._progress.reconnects += 1
            # Jitter, so that forty cameras behind one switch do not come back in one instant.
            self._stopped.wait(_pause_s(failures) * random.uniform(0.5, 1))

    def _read_once(self) -> None:
        at_own_pace = not self._source.is_live and self._policy == "drop_oldest"
        for frame in frames(self._source, at_own_pace=at_own_pace, first_id=self._progress.captured):
            if self._stopped.is_set():
                return
            self._progress.state, self._progress.source_detail = "running", ""
            self._progress.captured += 1
            self._progress.camera_rate.tick()
            started_s = time.monotonic()
            try:
                slot = self._take_slot()
            except ServeAppError as exc:
                self._progress.drop(exc.code)
                continue
            box = letterbox(frame.pixels, slot.pixels)
            captured = Captured(slot, box, frame.frame_id, frame.captured_at_s, time.monotonic() - started_s)
            unused = self._place.put(captured, wait=self._policy == "wait")
            if unused is not None:
                unused.slot.give_back()
                self._progress.drop("stopped" if self._stopped.is_set() else "newer_frame")

    def _fail(self, detail: str) -> None:
        self._progress.state, self._progress.source_detail = "failed", detail
