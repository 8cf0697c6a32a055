"""The JSON of ``GET /models``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from serve_app.schemas.detect import InputSize
from serve_app.types import DetectorState, Suppression, Task


class ModelStatus(BaseModel):
    """A model that a request can select.

    In state `changing`, the model still serves while its replacement is being loaded. In state `asleep`, the model is
    not in memory, and the next request loads it.
    """

    name: str
    state: Literal["ready", "changing", "asleep", "unavailable"]
    model: str | None = Field(default=None, description="The value of `model` in this model's results.")
    version: str | None = None
    task: Task | None = Field(
        default=None,
        description="What the model finds: boxes (`detect`), masks (`segment`), keypoints (`pose`), oriented boxes "
        "(`obb`), or the classes of a whole image (`classify`).",
    )
    engine: str | None = None
    precision: str | None = None
    image_size_px: int | None = Field(default=None, description="The longer side of the model's input.")
    input_height_px: int | None = None
    input_width_px: int | None = None
    input_shapes: list[InputSize] | None = Field(
        default=None,
        description="All sizes of the model's input, the smallest first. Each image gets the smallest that holds it "
        "at full scale.",
    )
    suppression: Suppression | None = Field(
        default=None,
        description="How duplicate boxes of one object are removed. `by_request`: the server removes a box if its IoU "
        "with a more confident box of the same class is above the request's `iou`. `not_needed`: the model returns "
        "each object once, and `iou` has no effect. `in_file`: the file was exported with `nms=True` and removes "
        "duplicates itself. The file uses the IoU and the confidence of its export (Ultralytics' default confidence is "
        "0.25), so `iou` and a lower `confidence` have no effect.",
    )
    labels: list[str] | None = Field(
        default=None, description="The label of each class id; the same label may occur twice."
    )
    refused_change: str = Field(
        default="", description="Why the last change of the model failed; empty if it did not fail."
    )

    @classmethod
    def of(cls, name: str, state: DetectorState) -> ModelStatus:
        """Return the status of a loaded model."""
        engine = state.model.engine
        return cls(
            name=name,
            state="changing" if state.is_changing else "ready",
            model=engine.name,
            version=state.model.version,
            task=engine.task,
            engine=engine.engine,
            precision=engine.precision,
            image_size_px=max(engine.input_shape),
            input_height_px=engine.input_shape.height_px,
            input_width_px=engine.input_shape.width_px,
            input_shapes=[InputSize.of(shape) for shape in engine.shapes],
            suppression=engine.suppression,
            labels=list(engine.labels),
            refused_change=state.refused_change,
        )


class ModelList(BaseModel):
    """Every model of the application, with the default model first."""

    models: list[ModelStatus]
