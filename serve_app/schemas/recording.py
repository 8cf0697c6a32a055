"""The JSON of a stream's recorder: its events and its state."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


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
