"""Read the events of a stream, either from the server or from the file that the stream writes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serve_app.client import Client, ConnectionFailed, FrameResult, MissedEvents, NotFoundError, StreamEvent
from serve_app.schemas.streams import Gap
from serve_app.types import Json

_PAUSE_S = 0.2  # the pause before another attempt to connect
_END_TIMEOUT_S = 60.0


class EventTimeout(Exception):
    """The awaited event did not arrive in time."""


@dataclass(frozen=True)
class Seen:
    """An event and its time of arrival, in seconds since the epoch."""

    at_s: float
    event: StreamEvent


def written(output_dir: Path, stream_id: str) -> list[Json]:
    """Return the events that a stream has written into its file."""
    return [json.loads(line) for line in (output_dir / stream_id / "events.jsonl").read_text().splitlines()]


class Follower:
    """A client that collects a stream's events in a thread until the stream is deleted."""

    def __init__(self, url: str, stream_id: str) -> None:
        self.seen: list[Seen] = []
        self._url = url
        self._stream_id = stream_id
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._follow, name=f"follower of {stream_id}", daemon=True)
        self._thread.start()

    def wait_for(self, wanted: Callable[[StreamEvent], bool], within_s: float = 120.0) -> Seen:
        """Return the first event that ``wanted`` accepts. If no such event has arrived yet, wait for it.

        Raise EventTimeout if no such event arrives within ``within_s`` seconds.
        """
        expires_at_s = time.monotonic() + within_s
        checked = 0
        with self._arrived:
            while True:
                for seen in self.seen[checked:]:
                    if wanted(seen.event):
                        return seen
                checked = len(self.seen)
                if not self._arrived.wait(max(0.0, expires_at_s - time.monotonic())):
                    raise EventTimeout(
                        f"stream {self._stream_id}: the awaited event did not arrive within {within_s:g} s"
                    )

    def result_after(self, at_s: float, within_s: float = 120.0, of_model: str | None = None) -> Seen:
        """Return the first result of a frame captured after ``at_s``.

        If ``of_model`` is given, skip the results of other models.
        """

        def matches(event: StreamEvent) -> bool:
            found = event.data
            return isinstance(found, FrameResult) and found.captured_at_s > at_s and of_model in (None, found.model)

        return self.wait_for(matches, within_s)

    def gap(self, within_s: float = 120.0) -> Gap:
        """Return the first gap event, which counts the frames lost when another process took the stream over."""
        found = self.wait_for(lambda event: event.type == "gap", within_s).event.data
        assert isinstance(found, Gap)
        return found

    def results(self) -> list[FrameResult]:
        """Return every result, in the order of arrival."""
        return [seen.event.data for seen in self.seen if isinstance(seen.event.data, FrameResult)]

    def frame_ids(self) -> list[int]:
        """Return the frame id of every result, in the order of arrival."""
        return [result.frame_id for result in self.results()]

    @property
    def is_in_order(self) -> bool:
        """Whether the results arrived in order, and no result arrived twice."""
        return self.frame_ids() == sorted(set(self.frame_ids()))

    def close(self) -> None:
        """Wait until the events end. Call this only after the stream is deleted."""
        self._thread.join(_END_TIMEOUT_S)

    def _follow(self) -> None:
        with Client(self._url) as client:
            while True:
                try:
                    for event in client.streams.events(self._stream_id, ("result", "state", "gap"), after=-1):
                        if not isinstance(event, MissedEvents):
                            self._add(event)
                except ConnectionFailed:  # the server process may have been killed before we connected
                    time.sleep(_PAUSE_S)
                except NotFoundError:  # the stream is deleted
                    return

    def _add(self, event: StreamEvent) -> None:
        with self._arrived:
            self.seen.append(Seen(time.time(), event))
            self._arrived.notify_all()
