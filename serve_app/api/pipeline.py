"""What the HTTP interface needs of the graph behind it."""

from __future__ import annotations

from typing import Protocol

from serve_app.errors import ServeAppError
from serve_app.schemas import DetectQuery
from serve_app.types import Answer, ModelInfo


class Pipeline(Protocol):
    """Encoded picture in, answer out."""

    async def ready(self) -> ModelInfo:
        """The model that serves now, asked of a warm replica. Raises Unavailable."""

    async def detect(self, data: bytes, query: DetectQuery, *, annotate: bool, time_left_s: float) -> Answer:
        """One picture's answer. Raises ServeAppError."""

    def refused(self, error: ServeAppError) -> None:
        """Count a picture or request that gets an error for its answer."""
