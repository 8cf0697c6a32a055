"""What the HTTP interface needs of the graph behind it."""

from __future__ import annotations

from typing import Protocol

from serve_app.types import Answer, DetectOptions, ModelInfo


class Pipeline(Protocol):
    """Encoded picture in, answer out."""

    async def model(self) -> ModelInfo:
        """The model that serves, as far as known. Raises Unavailable."""

    async def ready(self) -> ModelInfo:
        """The model that serves now, asked of a warm replica. Raises Unavailable."""

    async def detect(self, data: bytes, options: DetectOptions, *, annotate: bool, time_left_s: float) -> Answer:
        """One picture's answer. Raises ServeAppError."""
