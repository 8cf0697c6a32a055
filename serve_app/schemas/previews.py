"""The JSON that a client sends over the WebSocket ``/streams/previews``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serve_app.schemas.streams import ID, Spec


class Watch(Spec):
    """The streams that a client wants to watch. Each message replaces the one before."""

    streams: list[Annotated[str, Field(pattern=ID)]] = Field(max_length=64)
    max_fps: float = Field(5.0, ge=0.1, le=5, allow_inf_nan=False, description="The most frames per second and stream.")
    boxes: bool = True
