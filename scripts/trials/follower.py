"""A stream's events, followed as a client does it: over broken connections, from the last one on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from scripts.streams import Busy, Refused, read_events

Event = dict[str, Any]
_PAUSE_S = 0.2  # before a connection is made again
_TIMEOUT_S = 60.0  # a server says something at least every 10 s


class NothingCame(Exception):
    """What was waited for did not happen in time."""


@dataclass(frozen=True)
class Seen:
    """An event, and when it was here: wall clock, seconds since the epoch."""

    at_s: float
    event: Event


def written(output_dir: Path, stream_id: str) -> list[Event]:
    """The events that a stream has written into its file."""
    return [json.loads(line) for line in (output_dir / stream_id / "events.jsonl").read_text().splitlines()]


class Follower:
    """Collects a stream's events in a thread, until the stream is deleted."""

    def __init__(self, url: str, stream_id: str, types: str = "result,state,gap") -> None:
        self.seen: list[Seen] = []
        self._url = url
        self._stream_id = stream_id
        self._types = types
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._follow, name=f"follower of {stream_id}", daemon=True)
        self._thread.start()

    def wait_for(self, wanted: Callable[[Event], bool], within_s: float = 120.0) -> Seen:
        """The first event that is wanted, of those seen and those to come. Raises NothingCame."""
        expires_s = time.monotonic() + within_s
        looked_at = 0
        with self._arrived:
            while True:
                for seen in self.seen[looked_at:]:
                    if wanted(seen.event):
                        return seen
                looked_at = len(self.seen)
                if not self._arrived.wait(max(0.0, expires_s - time.monotonic())):
                    raise NothingCame(f"stream {self._stream_id}: it did not come in {within_s:g} s")

    def result_after(self, at_s: float, within_s: float = 120.0, of_model: str | None = None) -> Seen:
        """The first result of a frame that was captured after a moment, of any model or of one."""

        def is_it(event: Event) -> bool:
            result = event["type"] == "result" and event["captured_at_s"] > at_s
            return result and of_model in (None, event["model"])

        return self.wait_for(is_it, within_s)

    def frame_ids(self) -> list[int]:
        """Of every result, as they came."""
        return [seen.event["frame_id"] for seen in self.seen if seen.event["type"] == "result"]

    @property
    def is_in_order(self) -> bool:
        """Whether it saw no frame twice, nor one after a later one."""
        return self.frame_ids() == sorted(set(self.frame_ids()))

    def close(self) -> None:
        """To be called when the stream is deleted."""
        self._thread.join(_TIMEOUT_S)

    def _follow(self) -> None:
        last_id: str | None = "0"  # from the first event on
        with httpx.Client(base_url=self._url, timeout=_TIMEOUT_S, trust_env=False) as http:
            while True:
                try:
                    for name, value in read_events(http, self._stream_id, self._types, last_id):
                        if name == "id":
                            last_id = value
                        elif "type" in (event := json.loads(value)):  # not: how many are kept no more
                            self._add(event)
                except (httpx.TransportError, Busy):
                    pass
                except Refused:  # it is deleted
                    return
                time.sleep(_PAUSE_S)

    def _add(self, event: Event) -> None:
        with self._arrived:
            self.seen.append(Seen(time.time(), event))
            self._arrived.notify_all()
