"""A stream's progress, which is saved so that another process can continue the stream."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

from serve_app.schemas.scene import SceneMemory
from serve_app.schemas.streams import LineCount, ZoneCount
from serve_app.types import Position


class Bookmark(BaseModel):
    """A stream's progress, which the next process reads so that it counts no frame twice."""

    next_frame_id: int = 0
    next_event_id: int = 0
    next_track_id: int = 1
    position: Position | None = None  # where to continue in a file or folder; None for a live source
    stream_time_s: float = 0.0  # the last frame's time on the stream's own clock
    processed: int = 0
    dropped: dict[str, int] = {}
    reconnects: int = 0
    zones: dict[str, ZoneCount] = {}
    lines: dict[str, LineCount] = {}
    label: str | None = None  # the class in the last event ``label``
    scene: SceneMemory = SceneMemory()
    marked_at_s: float = 0.0  # when this bookmark was written, in seconds since the epoch

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_versions(cls, values: Any) -> Any:
        """Accept the old field name ``at_s`` for ``stream_time_s``, so that a stream continues after an upgrade."""
        if isinstance(values, dict) and "at_s" in values:
            return {"stream_time_s": values["at_s"], **values}
        return values

    def counters(self) -> dict[str, Any]:
        """Return the saved counters by their field names in ``StreamStatus``."""
        counted = {name: getattr(self, name) for name in ("processed", "dropped", "reconnects", "zones", "lines")}
        return {"captured": self.next_frame_id, **counted}


class BookmarkFile:
    """The file of a stream's bookmark. It is overwritten in place for every frame.

    A power failure can leave a partly written bookmark. If only the process is killed, the bookmark is complete.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = 0

    def read(self) -> Bookmark | None:
        """Return the saved bookmark, or None for a stream that has not started."""
        text = os.pread(self._file, 1 << 20, 0)
        self._size = len(text)
        try:
            return Bookmark.model_validate_json(text) if text else None
        except ValidationError:  # the machine lost power during a write
            return None

    def write(self, bookmark: Bookmark) -> None:
        """Overwrite the saved bookmark. Raise OSError if the file cannot be written."""
        text = bookmark.model_dump_json().encode().ljust(self._size)  # spaces overwrite the rest of a longer old text
        os.pwrite(self._file, text, 0)
        self._size = len(text)

    def close(self) -> None:
        """Close the file. Do not call this method twice."""
        os.close(self._file)
