"""The shared value types: frozen dataclasses, with their shapes and units.

The client package imports this module and must work without numpy, so numpy is imported only where an array is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from serve_app.detections import Detections
from serve_app.errors import InvalidParameter
from serve_app.labels import ids_by_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Json = dict[str, Any]
Pixels: TypeAlias = "NDArray[np.uint8]"  # (height, width, 3), BGR, as OpenCV decodes images
Task = Literal["detect", "segment", "pose", "obb", "classify"]  # what a model finds: see models/tasks
Fitting = Literal["letterbox", "crop"]  # how an image is fitted into the model input: see images/fitting.py
Traffic = Literal["interactive", "stream", "job"]  # the source of an image: a client, a stream or a batch job
Suppression = Literal["by_request", "not_needed", "in_file"]  # how duplicate boxes are removed
DecodedFrames = Literal["all", "reference_frames", "key_frames"]  # the frames of a video that are decoded
MaskFormat = Literal["polygon", "rle"]  # how results describe masks: as outlines, or as COCO's run-length encoding
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]  # auto: the engine chooses

KEY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # what the names of API keys look like

DEFAULT_MODEL = "default"  # the model for requests that do not name a model


class InputShape(NamedTuple):
    """The height and width of a model's input.

    The input is an array of shape ``(height_px, width_px, 3)`` and type uint8, with the colours in BGR order.
    """

    height_px: int
    width_px: int

    @classmethod
    def square(cls, side_px: int) -> InputShape:
        """Return a square shape whose sides have this length."""
        return cls(side_px, side_px)

    @property
    def array(self) -> tuple[int, int, int]:
        """The shape of the input's array."""
        return self.height_px, self.width_px, 3

    @property
    def nbytes(self) -> int:
        """The size of the input's array in bytes."""
        return self.height_px * self.width_px * 3

    def holds(self, width_px: int, height_px: int) -> bool:
        """Return whether an array of this size fits into the input."""
        return width_px <= self.width_px and height_px <= self.height_px

    def __str__(self) -> str:
        """Return the height and the width, in the order of the array."""
        return f"{self.height_px}x{self.width_px}"


@dataclass(frozen=True)
class Position:
    """The position of a frame in a video."""

    index: int  # counts from 0
    timestamp_s: float | None = None  # the frame's presentation timestamp, if the video has timestamps


@dataclass(frozen=True)
class Frame:
    """One frame of a stream."""

    frame_id: int  # counts from 0 when the stream starts and never goes back, even if a file loops
    captured_at_s: float  # wall clock, in seconds since the epoch
    # The stream's own clock, which never goes back. If the source is a file, this clock follows the file's timestamps.
    stream_time_s: float
    position: Position
    pixels: Callable[[], Pixels]  # converts the frame to an array on demand, so dropped frames are never converted


@dataclass(frozen=True)
class Letterbox:
    """The scaling, centring and padding with which an image is placed in the model input."""

    width_px: int  # the image's size
    height_px: int
    input_shape: InputShape
    inner_width_px: int  # the image's size inside the model input
    inner_height_px: int
    pad_x_px: int
    pad_y_px: int


@dataclass(frozen=True)
class DetectOptions:
    """The thresholds for one image. Each image of a batch has its own thresholds."""

    confidence: float  # detections with a higher confidence are kept
    # If the IoU of two boxes of one class is higher than ``iou``, the less confident box is removed. If the model is
    # end to end, ``iou`` is not used.
    iou: float
    max_detections: int
    class_ids: tuple[int, ...] | None = None  # None means every class
    # The class ids with a confidence threshold of their own, and these thresholds. ``confidence`` is for the others.
    class_confidence: tuple[tuple[int, float], ...] = ()
    agnostic_nms: bool = False  # boxes of different classes also suppress each other

    def threshold_of(self, class_id: int) -> float:
        """Return the confidence above which detections of a class are kept."""
        return dict(self.class_confidence).get(class_id, self.confidence)


@dataclass(frozen=True)
class EngineInfo:
    """The properties of the model that an engine has loaded."""

    name: str
    version: str  # 12 hex digits that change with the weights
    engine: str
    labels: tuple[str, ...]  # the label of each class id
    input_shape: InputShape  # the largest input
    end_to_end: bool  # the raw output has at most one row for each object
    has_built_in_nms: bool = False  # the model file contains NMS with its own thresholds, so the model is end to end
    precision: Precision = "fp32"
    rectangles: tuple[InputShape, ...] = ()  # the further shapes of inputs, the smallest first
    task: Task = "detect"
    keypoints: tuple[str, ...] = ()  # the name of each keypoint, if the task is pose
    numbers_per_keypoint: int = 3  # x, y and confidence, or only x and y

    @property
    def shapes(self) -> tuple[InputShape, ...]:
        """All shapes of inputs that the engine takes, the smallest first."""
        return *self.rectangles, self.input_shape

    @property
    def fitting(self) -> Fitting:
        """How an image is fitted into the model input."""
        return "crop" if self.task == "classify" else "letterbox"

    @property
    def suppression(self) -> Suppression:
        """How duplicate boxes are removed: by a request's ``iou``, by the model's head, or by the model's file."""
        if self.has_built_in_nms:
            return "in_file"
        return "not_needed" if self.end_to_end else "by_request"


@dataclass(frozen=True)
class ModelInfo:
    """The properties of a served model. Callers use them to prepare inputs and to read results."""

    engine: EngineInfo
    version: str  # 12 hex digits that change with the weights, the shapes of inputs and the defaults
    defaults: DetectOptions  # the thresholds of requests that do not set their own

    @property
    def name(self) -> str:
        """The model's name, which results contain."""
        return self.engine.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each class id."""
        return self.engine.labels

    @property
    def task(self) -> Task:
        """The task for which the model was trained."""
        return self.engine.task

    @property
    def fitting(self) -> Fitting:
        """How an image is fitted into the model input."""
        return self.engine.fitting

    @property
    def input_shape(self) -> InputShape:
        """The shape of the model's largest input."""
        return self.engine.input_shape

    @property
    def shapes(self) -> tuple[InputShape, ...]:
        """All shapes of inputs that the model takes, the smallest first."""
        return self.engine.shapes

    def class_ids(self, wanted: Sequence[str | int], *, may_be_lists: bool = False) -> tuple[int, ...]:
        """Return the ids of the wanted classes. A class is given as a label, an id, or an id written as a string.

        A label that several classes share stands for all of them. A string of digits is looked up as a label first,
        then as an id. With ``may_be_lists``, a string that is not a label may be a comma-separated list. Raise KeyError
        with the first unknown class.
        """
        known = ids_by_name(self.labels)
        found: set[int] = set()
        for value in wanted:
            name = value if isinstance(value, int) or value in known else value.strip()
            is_list = may_be_lists and isinstance(name, str) and name not in known
            for part in [one.strip() for one in str(name).split(",")] if is_list else [name]:
                found.update(known[part])
        return tuple(sorted(found))


@dataclass(frozen=True)
class DetectorState:
    """The model that a Detector serves, and the progress of its last roll-out."""

    model: ModelInfo
    is_changing: bool = False  # another model is being loaded
    refused_change: str = ""  # why the last change was refused; empty if it was not refused


@dataclass(frozen=True)
class DetectParams:
    """The detection settings of a request, a stream or a job. None means the model's default."""

    model: str = DEFAULT_MODEL
    confidence: float | None = None  # for the classes that ``class_confidence`` does not name
    iou: float | None = None
    max_detections: int | None = None
    classes: tuple[str | int, ...] = ()  # labels, ids, or ids written as strings; empty means every class
    classes_may_be_lists: bool = False  # True for a query, in which one value may be a comma-separated list
    class_confidence: tuple[tuple[str, float], ...] = ()  # classes, given as in ``classes``, and their thresholds
    agnostic_nms: bool | None = None
    mask: MaskFormat = "polygon"

    def to_options(self, model: ModelInfo) -> DetectOptions:
        """Return the thresholds for this model. Raise InvalidParameter if the model lacks one of the classes.

        Classes whose threshold is not given have that of the model's defaults. If ``confidence`` is given, it replaces
        all of these.
        """
        defaults = model.defaults
        known = _known_ids("classes", model, self.classes, self.classes_may_be_lists)
        own: dict[int, float] = {}
        for name, threshold in self.class_confidence:
            ids = _known_ids("confidence", model, (name,))
            if not own.keys().isdisjoint(ids):
                raise InvalidParameter(f"confidence: the class of {name[:64]!r} has two thresholds; give it one")
            own |= dict.fromkeys(ids, threshold)
        thresholds = own if self.confidence is not None else dict(defaults.class_confidence) | own
        return DetectOptions(
            confidence=defaults.confidence if self.confidence is None else self.confidence,
            iou=defaults.iou if self.iou is None else self.iou,
            max_detections=self.max_detections or defaults.max_detections,
            class_ids=known if self.classes else None,
            class_confidence=tuple(sorted(thresholds.items())),
            agnostic_nms=defaults.agnostic_nms if self.agnostic_nms is None else self.agnostic_nms,
        )


def _known_ids(
    parameter: str, model: ModelInfo, classes: Sequence[str | int], may_be_lists: bool = False
) -> tuple[int, ...]:
    try:
        return model.class_ids(classes, may_be_lists=may_be_lists)
    except KeyError as exc:
        unknown = exc.args[0][:64] if isinstance(exc.args[0], str) else exc.args[0]
        raise InvalidParameter(
            f"{parameter}: the model {model.name} has no class {unknown!r}; GET /models lists its labels"
        ) from None


@dataclass(frozen=True)
class Timing:
    """The time that each stage took for an image, in seconds."""

    decode_s: float = 0.0  # decoding and letterboxing
    queue_s: float = 0.0
    inference_s: float = 0.0
    postprocess_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True)
class SlotRef:
    """The location of a frame in shared memory. Processes exchange this location instead of the frame's bytes."""

    pool: str  # the name of the pool's file
    offset: int  # bytes from the start of the file
    input_shape: InputShape  # the frame's shape


@dataclass(frozen=True)
class FrameBytes:
    """A copy of a frame, for a process that does not share memory with the sender."""

    data: bytes
    input_shape: InputShape


@dataclass(frozen=True)
class PictureRequest:
    """One encoded image for the Preprocessor."""

    data: bytes
    params: DetectParams
    time_left_s: float  # a duration, because the clocks of two nodes differ
    annotate: bool = False  # also return the image with its boxes drawn
    tenant: str = ""  # the batcher shares the engine fairly between tenants
    is_suspect: bool = False  # a Preprocessor died while it had this image, so decode the image in a separate process


@dataclass(frozen=True)
class DetectRequest:
    """One model input for the Detector: a shared-memory slot, or the frame's bytes if the memory is not shared."""

    frame: SlotRef | FrameBytes
    options: DetectOptions
    time_left_s: float  # a duration, because the clocks of two nodes differ
    model_version: str  # the model for which the frame was letterboxed
    traffic: Traffic
    tenant: str  # an API key, a stream or a job; tenants of one kind of traffic share the engine fairly
    isolated: bool = False  # a Detector died with this frame in its engine, so run the frame alone
    superseded: int = 0  # the number of frames that newer frames have replaced since the stream's last request
    wants_tensor: bool = False  # the client suppresses duplicates itself, so ``options`` are not used


@dataclass(frozen=True)
class DetectReply:
    """The Detector's result for one model input, in pixels of the model input."""

    detections: Detections
    timing: Timing
    batch_size: int = 0  # the number of frames in the batch
    tensor: NDArray[np.float32] | None = None  # if requested, instead of detections: see ``models.tasks.tensors``


@dataclass(frozen=True)
class Answer:
    """The result for one image, in pixels of the image as a viewer shows it."""

    detections: Detections
    width_px: int
    height_px: int
    model: str
    batch_size: int
    timing: Timing
    input_shape: InputShape  # the shape of the model input into which the image was letterboxed
    annotated: bytes | None = None  # a JPEG with the boxes drawn, if requested
    keypoint_names: tuple[str, ...] = ()  # the name of each keypoint, if the model's file has them


@dataclass(frozen=True)
class Principal:
    """Who makes a request: the name of its API key.

    Without API keys, the name is empty, and everyone on this machine is an administrator.
    """

    name: str
    is_admin: bool

    @property
    def owner(self) -> str | None:
        """The owner of what this principal creates. It is a key's name, so a new key of the same name keeps it."""
        return self.name or None

    def may_see(self, owner: str | None) -> bool:
        """Return whether this principal may read and change what ``owner`` has created. None means no owner.

        For jobs, ``Supervision._find`` applies this rule, and the SQL of ``jobs.store.jobs.page`` repeats it.
        """
        return self.is_admin or owner is None or owner == self.name


@dataclass(frozen=True)
class Event:
    """An event of a stream or a job: a result, a change of state or a crossed line, for example."""

    event_id: int  # increases within a stream or job, also across restarts
    type: str
    subject_id: str  # the id of the stream or the job
    json: str  # a JSON object that also contains the three fields above


@dataclass(frozen=True)
class EventPage:
    """A page of the events of a stream or a job, the oldest first."""

    events: list[Event]
    # If this page is empty, the next page starts with the first event whose id is above ``last_id``. If ``last_id`` is
    # None, the next page has only events that happen after the request for that page.
    last_id: int | None
    missed: int  # the number of requested events that are no longer kept


@dataclass(frozen=True)
class Snapshot:
    """A processed frame of a stream, as a JPEG."""

    frame_id: int
    jpeg: bytes
    captured_at_s: float = 0.0  # in seconds since the epoch
