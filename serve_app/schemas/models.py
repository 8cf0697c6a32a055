"""The JSON of ``GET /models``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from serve_app.types import DetectorState, Suppression


class ModelStatus(BaseModel):
    """A model that requests can name. Changing, it serves, and another one is being loaded in its place; asleep, none
    of it is in memory, and the first request brings it back."""

    name: str
    state: Literal["ready", "changing", "asleep", "unavailable"]
    model: str | None = Field(default=None, description="The `model` of its answers.")
    version: str | None = None
    engine: str | None = None
    precision: str | None = None
    image_size_px: int | None = Field(default=None, description="The longer side of its input.")
    input_height_px: int | None = None
    input_width_px: int | None = None
    suppression: Suppression | None = Field(
        default=None,
        description="What leaves one box of each object. `by_request`: the request's `iou`. `not_needed`: its head "
        "answers each object once, and `iou` has no effect. `in_file`: the file was exported with `nms=True`. It "
        "suppresses by an IoU of its own and drops what is below a confidence of its own, 0.25 unless the export set "
        "another, so that `iou` and a lower `confidence` have no effect.",
    )
    labels: list[str] | None = Field(default=None, description="By class id; the same label may occur twice.")
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
            input_height_px=engine.input_shape.height_px,
            input_width_px=engine.input_shape.width_px,
            suppression=engine.suppression,
            labels=list(engine.labels),
            refused_change=state.refused_change,
        )


class ModelList(BaseModel):
    """Every model of the application, the default one first."""

    models: list[ModelStatus]
