"""How far a stream has come, kept so that another process can go on there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

from serve_app.schemas.streams import LineCount, ZoneCount
from serve_app.types import Position


class Bookmark(BaseModel):
    """How far a stream has come: where a process goes on that takes its place. No frame counts twice."""

    next_frame_id: int = 0
    next_event_id: int = 0
    next_track_id: int = 1
    position: Position | None = None  # of the last frame that was begun, in a source that has an end
    stream_time_s: float = 0.0  # the stream's own clock, at that frame
    processed: int = 0
    dropped: dict[str, int] = {}
    reconnects: int = 0
    zones: dict[str, ZoneCount] = {}
    lines: dict[str, LineCount] = {}
    marked_at_s: float = 0.0  # wall clock, seconds since the epoch

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_versions(cls, values: Any) -> Any:
        """Take ``at_s`` for ``stream_time_s``: a stream continues over an upgrade."""
        if isinstance(values, dict) and "at_s" in values:
            return {"stream_time_s": values["at_s"], **values}
        return values

    def counters(self) -> dict[str, Any]:
        """Those of ``StreamStatus``, as they were."""
        counted = {name: getattr(self, name) for name in ("processed", "dropped", "reconnects", "zones", "lines")}
        return {"captured": self.next_frame_id, **counted}


class BookmarkFile:
    """A stream's bookmark, moved with every frame: written in place, since a killed process loses none of that."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = 0

    def read(self) -> Bookmark | None:
        """None for a stream that has not begun."""
        text = os.pread(self._file, 1 << 20, 0)
        self._size = len(text)
        try:
            return Bookmark.model_validate_json(text) if text else None
        except ValidationError:  # the machine lost its power while it was written
            return None

    def write(self, bookmark: Bookmark) -> None:
        """Move it there. Raises OSError."""
        text = bookmark.model_dump_json().encode().ljust(self._size)  # blanks over what was longer
        os.pwrite(self._file, text, 0)
        self._size = len(text)

    def close(self) -> None:
        """To be called once."""
        os.close(self._file)
