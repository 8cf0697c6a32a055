"""The JSON of ``GET /models``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from serve_app.types import ModelInfo


class ModelStatus(BaseModel):
    """A model that requests can name. Changing, it serves, and another one is being loaded in its place; asleep, none
    of it is in memory, and the first request brings it back."""

    name: str
    state: Literal["ready", "changing", "asleep", "unavailable"]
    model: str | None = Field(default=None, description="The `model` of its answers.")
    version: str | None = None
    engine: str | None = None
    precision: str | None = None
    image_size_px: int | None = None
    labels: list[str] | None = None
    refused_change: str = Field(default="", description="Why it is not the one that it was to be changed to.")

    @classmethod
    def of(cls, name: str, info: ModelInfo) -> ModelStatus:
        """Of a model that is loaded."""
        return cls(
            name=name,
            state="changing" if info.is_changing else "ready",
            model=info.name,
            version=info.version,
            engine=info.engine,
            precision=info.precision,
            image_size_px=info.size_px,
            labels=list(info.labels),
            refused_change=info.refused_change,
        )


class ModelList(BaseModel):
    """Every model of the application, the default one first."""

    models: list[ModelStatus]
