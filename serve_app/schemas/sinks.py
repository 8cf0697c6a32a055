"""The JSON of the states of sinks."""

from __future__ import annotations

from pydantic import BaseModel, Field


class SinkStatus(BaseModel):
    """A sink's counters. ``accepted = sent + dropped + waiting``."""

    type: str
    target: str = Field(description="Where the sink sends events or video, without credentials.")
    sent: int
    waiting: int
    dropped: dict[str, int] = Field(description="Dropped events or frames, by reason.")
    detail: str = Field(description="The sink's current problem; empty if it has none.")
