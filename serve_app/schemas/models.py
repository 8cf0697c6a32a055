"""The JSON of ``GET /models``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from serve_app.types import DetectorState


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
    def of(cls, name: str, state: DetectorState) -> ModelStatus:
        """Return the status of a model that is loaded."""
        engine = state.model.engine
        return cls(
            name=name,
            state="changing" if state.is_changing else "ready",
            model=engine.name,
            version=state.model.version,
            engine=engine.engine,
            precision=engine.precision,
            image_size_px=max(engine.input_shape),
            labels=list(engine.labels),
            refused_change=state.refused_change,
        )


class ModelList(BaseModel):
    """Every model of the application, the default one first."""

    models: list[ModelStatus]
