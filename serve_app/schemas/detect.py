"""The parameters and the JSON responses of ``POST /detect``, with the descriptions for the OpenAPI document."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt
from pydantic_core import PydanticCustomError

from serve_app.detections import Detections, Rle
from serve_app.schemas.errors import ErrorResponse
from serve_app.thresholds import Confidence, number, split
from serve_app.types import DEFAULT_MODEL, Answer, DetectParams, InputShape, MaskFormat

# Parameters that a request may contain only once.
ONE_VALUE = ("model", "confidence", "iou", "max_detections", "agnostic_nms", "mask")
_MAX_ANGLE = 1.5707  # the largest number with four decimals that is less than π/2


def _class(value: Any) -> Any:
    """Return the value if it is a valid class. Refuse lone surrogates, because UTF-8 cannot encode them."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PydanticCustomError("class", "a class must be a label (a string) or a class id (a whole number)")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise PydanticCustomError(
            "class", "the label contains half a character (a lone surrogate); send the whole character"
        )
    return value


class DetectSettings(BaseModel):
    """The detection settings of a request or stream.

    A setting that is left out takes the server's default. An unknown setting is refused.
    """

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=64, description="The name of a model: see `GET /models`.")] = DEFAULT_MODEL
    confidence: Annotated[
        Confidence | None,
        Field(
            description="Keep detections above this confidence: a number, or a number for each class, such as "
            "`person:0.6,car:0.4,*:0.5`. A class is a label or a class id, and `*` stands for all others; without `*`, "
            'they have the server\'s default. In JSON, `{"person": 0.6, "*": 0.5}` means the same. The file of a '
            "model whose `suppression` is `in_file` contains a threshold from its export; a value below this threshold "
            "has no effect.",
        ),
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
        BeforeValidator(number),
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
    max_detections: Annotated[int | None, Field(ge=1, le=3000), BeforeValidator(number)] = None
    agnostic_nms: Annotated[
        bool | None,
        Field(description="Whether boxes of different classes also suppress each other: see `iou`."),
    ] = None
    mask: Annotated[
        MaskFormat,
        Field(
            description="How the masks of a model that segments are described: `polygon` (`segments`), or `rle` "
            "(`mask`), which also has the holes."
        ),
    ] = "polygon"

    def to_params(self) -> DetectParams:
        """Return the settings as ``DetectParams``."""
        others, by_class = split(self.confidence)
        return DetectParams(
            self.model,
            others,
            self.iou,
            self.max_detections,
            tuple(self.classes),
            class_confidence=by_class,
            agnostic_nms=self.agnostic_nms,
            mask=self.mask,
        )


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


def added(description: str) -> Any:
    """Return the default of a field that only the results of some models have. Without a value, JSON lacks the field.

    ``description`` is the field's description in the OpenAPI document.
    """
    return Field(default=None, description=description, exclude_if=lambda value: value is None)


class RleMask(BaseModel):
    """A mask of the whole image in COCO's compressed run-length encoding, as pycocotools reads it."""

    size: tuple[int, int] = Field(description="The height and the width of the image in pixels.")
    counts: str = Field(description="The lengths of the runs, compressed.")


class Corners(BaseModel):
    """The corners of a rotated box, in pixels of the image, in the order of Ultralytics' `xyxyxyxy`.

    If the angle is 0, they are the lower right, the upper right, the upper left and the lower left corner.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    x3: float
    y3: float
    x4: float
    y4: float


class Detection(BaseModel):
    """One detected object: its class, its confidence and its box, and what a model's task adds to them."""

    label: str
    class_id: int
    confidence: float
    bbox: Box
    segments: list[list[tuple[float, float]]] | None = added(
        "The outer outlines of the object's mask, each as a list of points [x, y] in pixels of the image. Holes are "
        "left out. Only models that segment return it, and not with `mask=rle`."
    )
    mask: RleMask | None = added(
        "The object's mask with its holes. Only models that segment return it, and only with `mask=rle`."
    )
    keypoints: list[tuple[float, float, float]] | None = added(
        "The position of each keypoint in pixels of the image, and its confidence: [x, y, confidence]. Only models of "
        "poses return it."
    )
    obb: Corners | None = added(
        "The corners of the rotated box, which may be outside of the image. `bbox` is its upright hull, clipped to the "
        "image. Only models of oriented boxes return it."
    )
    angle: float | None = added(
        "The rotation of the box in radians, as Ultralytics has it: at least 0 and less than π/2. It turns the x axis "
        "towards the y axis, which is clockwise on the screen. Only models of oriented boxes return it."
    )


class ClassConfidence(BaseModel):
    """One class of a whole image, and the probability that the image belongs to it."""

    label: str
    class_id: int
    confidence: float


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


CLASSES = added(
    "The most probable classes of the whole image, the most probable first: five, unless `max_detections` is given. "
    "Only models that classify return it; their results have no detections."
)
KEYPOINT_NAMES = added("The names of the keypoints, in the order of `keypoints`, if the model's file has them.")


class Found(BaseModel):
    """The detections in one image or frame, with the model's name and the time that each stage took."""

    count: int
    detections: list[Detection]
    classes: list[ClassConfidence] | None = CLASSES
    keypoint_names: list[str] | None = KEYPOINT_NAMES
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
    """Return the values of ``Found`` for an answer, rounded to a meaningful precision."""
    found, timing = answer.detections, answer.timing
    fields: dict[str, Any] = {"count": len(found), "detections": _objects(found)}
    if found.classes is not None:
        ranking = found.classes
        fields["classes"] = [
            {"label": label, "class_id": class_id, "confidence": round(confidence, 4)}
            for label, class_id, confidence in zip(
                ranking.labels or (), ranking.class_id.tolist(), ranking.confidence.tolist(), strict=True
            )
        ]
    if found.keypoints is not None and answer.keypoint_names:
        fields["keypoint_names"] = answer.keypoint_names
    return fields | {
        "image": {"width": answer.width_px, "height": answer.height_px},
        "input": InputSize.of(answer.input_shape),
        "model": answer.model,
        "timing_ms": {
            "decode": round(timing.decode_s * 1e3, 2),
            "queue": round(timing.queue_s * 1e3, 2),
            "inference": round(timing.inference_s * 1e3, 2),
            "postprocess": round(timing.postprocess_s * 1e3, 2),
            "total": round(timing.total_s * 1e3, 2),
        },
        "batch_size": answer.batch_size,
    }


def _objects(found: Detections) -> list[dict[str, Any]]:
    """Return the values of a ``Detection`` for each object."""
    objects: list[dict[str, Any]] = [
        {
            "label": label,
            "class_id": class_id,
            "confidence": round(confidence, 4),
            "bbox": {"x1": round(x1, 2), "y1": round(y1, 2), "x2": round(x2, 2), "y2": round(y2, 2)},
        }
        for label, ((x1, y1, x2, y2), confidence, class_id) in zip(found.labels or (), found, strict=True)
    ]
    for one, outline in zip(objects, found.outlines or (), strict=False):
        if isinstance(outline, Rle):
            one["mask"] = {"size": (outline.height_px, outline.width_px), "counts": outline.counts}
        else:
            one["segments"] = outline
    if found.keypoints is not None:
        for one, points in zip(objects, found.keypoints.tolist(), strict=True):
            one["keypoints"] = [(round(x, 2), round(y, 2), round(confidence, 4)) for x, y, confidence in points]
    if (corners := found.corners) is not None and found.rotated is not None:
        for one, points, angle in zip(objects, corners.tolist(), found.rotated[:, 4].tolist(), strict=True):
            one["obb"] = {
                f"{axis}{number}": round(value, 2)
                for number, point in enumerate(points, 1)
                for axis, value in zip("xy", point, strict=True)
            }
            one["angle"] = min(round(angle, 4), _MAX_ANGLE)
    return objects


class DetectManyResponse(BaseModel):
    """The results for several images, in the order of the images. Each entry is a result or an error."""

    results: list[DetectResponse | ErrorResponse]
