"""The JSON of a stream's recorder: its events, its state and its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field

_FILE_NAME = r"^\w[\w.-]*$"  # clients save files under these names, so they name no other folder


class ClipNotice(BaseModel):
    """The event ``recording``: a clip was started or finished. Each clip has a snapshot of its first detection."""

    change: Literal["started", "finished"]
    clip: str = Field(description="The clip's file name in the stream's folder in `streams.output_dir`.")
    snapshot: str
    labels: list[str] = Field(description="The labels that were detected.")
    began_at_s: float = Field(description="When the clip's first frame was captured, in seconds since the epoch.")
    duration_s: float | None = Field(
        description="The length of the clip in seconds; set only when the clip is finished."
    )


class RecordingStatus(BaseModel):
    """The state and counters of a stream's recorder."""

    is_recording: bool
    clips: int = Field(description="Clips finished since the stream's process started.")
    dropped: dict[str, int] = Field(description="Frames that the recorder dropped, by reason.")
    detail: str = Field(description="The recorder's current problem; empty if it has none.")


class RecordedClip(BaseModel):
    """A clip of a recorder, and the snapshot of the clip's first detection."""

    name: str
    triggered_at_s: float = Field(description="When the first object was detected, in seconds since the epoch.")
    clip: str | None = Field(
        pattern=_FILE_NAME, description="The file name of the clip; null while it is not finished."
    )
    snapshot: str | None = Field(pattern=_FILE_NAME, description="The file name of the snapshot.")
    size_bytes: int | None = Field(description="The size of the clip.")


class RecordingList(BaseModel):
    """The recordings of a stream, the newest first. ``next`` is the value of ``before`` for more."""

    recordings: list[RecordedClip]
    next: str | None = None


@dataclass(frozen=True)
class FilePiece:
    """A piece of a file, and the size of the whole file."""

    data: bytes
    size_bytes: int
