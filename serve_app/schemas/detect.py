"""What goes over the wire: the JSON of requests and answers, and what OpenAPI shows of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt
from pydantic_core import PydanticCustomError

from serve_app.schemas.errors import ErrorResponse
from serve_app.types import DEFAULT_MODEL, Answer, DetectParams

ONE_VALUE = ("model", "confidence", "iou", "max_detections")  # parameters that a query may give once


def _class(value: Any) -> Any:
    """Return what may be a class. Pydantic takes halves of characters beyond 65,536, which UTF-8 cannot hold."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PydanticCustomError("class", "a class is a label in quotes, or a class id, which is a whole number")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise PydanticCustomError("class", "the label has half a character (a lone surrogate): send it whole")
    return value


def _number(value: Any) -> Any:
    """Return the number. Python and Pydantic take ``0_1`` for 1, as source code may have it."""
    if isinstance(value, str) and "_" in value:
        raise PydanticCustomError("number", "a number has no underscores")
    return value


class DetectSettings(BaseModel):
    """What is asked of a model. A setting left out takes the server's default; an unknown one is refused."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=64, description="Which of the models: see `GET /models`.")] = DEFAULT_MODEL
    confidence: Annotated[
        float | None,
        Field(
            ge=0.01,
            le=1,
            allow_inf_nan=False,
            description="Keep detections above this confidence. A model whose `suppression` is `in_file` has no "
            "detections below the confidence that its file was exported with: a lower one has no effect.",
        ),
        BeforeValidator(_number),
    ] = None
    iou: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="Two boxes of one class that overlap by more are one. It has an effect only on models whose "
            "`suppression` is `by_request`: see `GET /models`.",
        ),
        BeforeValidator(_number),
    ] = None
    classes: Annotated[
        list[Annotated[str | StrictInt, BeforeValidator(_class)]],
        Field(
            description="Labels or class ids; a label that several classes have means all of them. Repeat it in a "
            "query, or separate them by commas: a value that is a label as a whole is not split. A list in JSON is "
            "never split, and a number in it is always a class id. Default: every class."
        ),
    ] = []
    max_detections: Annotated[int | None, Field(ge=1, le=3000), BeforeValidator(_number)] = None

    def to_params(self) -> DetectParams:
        """Return the same, as the graph takes it from any API."""
        return DetectParams(self.model, self.confidence, self.iou, self.max_detections, tuple(self.classes))


class DetectQuery(DetectSettings):
    """Query of ``POST /detect``."""

    def to_params(self) -> DetectParams:
        """Return the same, as the graph takes it from any API: a value may be several classes."""
        return replace(super().to_params(), classes_may_be_lists=True)


class PictureUrl(BaseModel):
    """Body of ``POST /detect`` in JSON."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        min_length=1, max_length=8192, description="`http` or `https`, of a picture that anybody may fetch."
    )


class Box(BaseModel):
    """Left, top, right and bottom in pixels of the picture as a viewer shows it."""

    x1: float
    y1: float
    x2: float
    y2: float


class Detection(BaseModel):
    """One object."""

    label: str
    class_id: int
    confidence: float
    bbox: Box


class ImageSize(BaseModel):
    """Of the picture as a viewer shows it (EXIF orientation applied)."""

    width: int
    height: int


class TimingMs(BaseModel):
    """Where the time went, in milliseconds. ``total`` is from the request's last byte to the answer."""

    decode: float
    queue: float
    inference: float
    postprocess: float
    total: float


class Found(BaseModel):
    """What was found in one picture or frame, and how it was answered."""

    count: int
    detections: list[Detection]
    image: ImageSize
    model: str
    timing_ms: TimingMs
    batch_size: int = Field(description="Pictures that the engine took together with this one.")


class DetectResponse(Found):
    """One picture's answer."""

    request_id: str

    @classmethod
    def from_answer(cls, answer: Answer, request_id: str) -> DetectResponse:
        """The answer as JSON, rounded to what a pixel and a confidence are worth."""
        return cls(request_id=request_id, **answer_fields(answer))


def answer_fields(answer: Answer) -> dict[str, Any]:
    """Return the fields of ``Found``, rounded to what a pixel and a confidence are worth."""
    labels, timing = answer.detections.labels or (), answer.timing
    return {
        "count": len(answer.detections),
        "detections": [
            Detection(
                label=label,
                class_id=class_id,
                confidence=round(confidence, 4),
                bbox=Box(x1=round(x1, 2), y1=round(y1, 2), x2=round(x2, 2), y2=round(y2, 2)),
            )
            for label, ((x1, y1, x2, y2), confidence, class_id) in zip(labels, answer.detections, strict=True)
        ],
        "image": ImageSize(width=answer.width_px, height=answer.height_px),
        "model": answer.model,
        "timing_ms": TimingMs(
            decode=round(timing.decode_s * 1e3, 2),
            queue=round(timing.queue_s * 1e3, 2),
            inference=round(timing.inference_s * 1e3, 2),
            postprocess=round(timing.postprocess_s * 1e3, 2),
            total=round(timing.total_s * 1e3, 2),
        ),
        "batch_size": answer.batch_size,
    }


class DetectManyResponse(BaseModel):
    """Several pictures' answers, in the order they were sent: each its own answer or its own error."""

    results: list[DetectResponse | ErrorResponse]
