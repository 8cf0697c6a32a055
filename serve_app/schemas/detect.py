"""The parameters and the JSON responses of ``POST /detect``, with the descriptions for the OpenAPI document."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt
from pydantic_core import PydanticCustomError

from serve_app.schemas.errors import ErrorResponse
from serve_app.types import DEFAULT_MODEL, Answer, DetectParams, InputShape

ONE_VALUE = ("model", "confidence", "iou", "max_detections")  # parameters that a request may contain only once


def _class(value: Any) -> Any:
    """Return the value if it is a valid class. Refuse lone surrogates, because UTF-8 cannot encode them."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PydanticCustomError("class", "a class must be a label (a string) or a class id (a whole number)")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise PydanticCustomError(
            "class", "the label contains half a character (a lone surrogate); send the whole character"
        )
    return value


def _number(value: Any) -> Any:
    """Return the value, but refuse a string with an underscore. Pydantic would parse ``0_1`` as the number 1."""
    if isinstance(value, str) and "_" in value:
        raise PydanticCustomError("number", "a number must not contain underscores")
    return value


class DetectSettings(BaseModel):
    """The detection settings of a request or stream.

    A setting that is left out takes the server's default. An unknown setting is refused.
    """

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=64, description="The name of a model: see `GET /models`.")] = DEFAULT_MODEL
    confidence: Annotated[
        float | None,
        Field(
            ge=0.01,
            le=1,
            allow_inf_nan=False,
            description="Keep detections above this confidence. The file of a model whose `suppression` is "
            "`in_file` contains a threshold from its export; a value below this threshold has no effect.",
        ),
        BeforeValidator(_number),
    ] = None
    iou: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="If the IoU of two boxes of one class is above this value, only the more confident box is "
            "kept. This has an effect only for models whose `suppression` is `by_request`: see `GET /models`.",
        ),
        BeforeValidator(_number),
    ] = None
    classes: Annotated[
        list[Annotated[str | StrictInt, BeforeValidator(_class)]],
        Field(
            description="Labels or class ids of the detections to keep. A label that several classes share selects all "
            "of them. In a query, repeat the parameter or separate values by commas. A value that is itself a label "
            "is not split. In JSON, strings are never split, and a number is always a class id. Default: every "
            "class."
        ),
    ] = []
    max_detections: Annotated[int | None, Field(ge=1, le=3000), BeforeValidator(_number)] = None

    def to_params(self) -> DetectParams:
        """Return the settings as ``DetectParams``."""
        return DetectParams(self.model, self.confidence, self.iou, self.max_detections, tuple(self.classes))


class DetectQuery(DetectSettings):
    """The query parameters of ``POST /detect``."""

    def to_params(self) -> DetectParams:
        """Return the settings as ``DetectParams``. A value of ``classes`` may be a list that is separated by commas."""
        return replace(super().to_params(), classes_may_be_lists=True)


class PictureUrl(BaseModel):
    """The JSON body of ``POST /detect``: the URL of an image."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        min_length=1,
        max_length=8192,
        description="The `http` or `https` URL of an image. The URL must not need credentials.",
    )


class Box(BaseModel):
    """A box: its left, top, right and bottom edges, in pixels of the image as a viewer shows it."""

    x1: float
    y1: float
    x2: float
    y2: float


class Detection(BaseModel):
    """One detected object: its class, its confidence and its box."""

    label: str
    class_id: int
    confidence: float
    bbox: Box


class ImageSize(BaseModel):
    """The size of the image in pixels, as a viewer shows it (EXIF orientation applied)."""

    width: int
    height: int


class InputSize(BaseModel):
    """The size of a model's input in pixels, including the padding around the image."""

    width: int
    height: int

    @classmethod
    def of(cls, shape: InputShape) -> InputSize:
        """Return the size as JSON."""
        return cls(width=shape.width_px, height=shape.height_px)


class TimingMs(BaseModel):
    """The time that each stage took, in milliseconds.

    ``total`` is the time from the request's last byte to the result.
    """

    decode: float
    queue: float
    inference: float
    postprocess: float
    total: float


class Found(BaseModel):
    """The detections in one image or frame, with the model's name and the time that each stage took."""

    count: int
    detections: list[Detection]
    image: ImageSize
    input: InputSize | None = Field(
        default=None, description="The size of the model's input for this image. An older server does not send it."
    )
    model: str
    timing_ms: TimingMs
    batch_size: int = Field(description="The number of images in the batch, including this one.")


class DetectResponse(Found):
    """The result for one image."""

    request_id: str

    @classmethod
    def from_answer(cls, answer: Answer, request_id: str) -> DetectResponse:
        """Return the answer as JSON, rounded to a meaningful precision."""
        return cls(request_id=request_id, **answer_fields(answer))


def answer_fields(answer: Answer) -> dict[str, Any]:
    """Return the fields of ``Found`` for an answer, rounded to a meaningful precision."""
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
        "input": InputSize.of(answer.input_shape),
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
    """The results for several images, in the order of the images. Each entry is a result or an error."""

    results: list[DetectResponse | ErrorResponse]
