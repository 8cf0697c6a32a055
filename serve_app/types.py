"""The nouns: frozen values, with their shapes and units beside them.

A client of the HTTP interface imports this module and needs no numpy, so numpy is imported only where an array is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from serve_app.errors import InvalidParameter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Json = dict[str, Any]
Pixels: TypeAlias = "NDArray[np.uint8]"  # (height, width, 3), BGR, as OpenCV decodes
Traffic = Literal["interactive", "stream", "job"]  # who waits for the answer: a client, a live stream, nobody
Suppression = Literal["by_request", "not_needed", "in_file"]  # what leaves one box of each object
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]  # what an engine computes in; auto: the engine chooses

DEFAULT_MODEL = "default"  # the name of the model that answers a request which names none


class InputShape(NamedTuple):
    """The height and width of a model's input; its array is ``(height_px, width_px, 3)``, uint8, BGR."""

    height_px: int
    width_px: int

    @classmethod
    def square(cls, side_px: int) -> InputShape:
        """Return the shape of a square."""
        return cls(side_px, side_px)

    @property
    def array(self) -> tuple[int, int, int]:
        """The shape of the input's array."""
        return self.height_px, self.width_px, 3

    @property
    def nbytes(self) -> int:
        """The bytes of the input's array."""
        return self.height_px * self.width_px * 3

    def __str__(self) -> str:
        return f"{self.height_px}x{self.width_px}"


@dataclass(frozen=True)
class Position:
    """Where in a video a frame is."""

    index: int  # from 0
    timestamp_s: float | None = None  # the frame's presentation timestamp, if the video has timestamps


@dataclass(frozen=True)
class Frame:
    """One picture of a stream."""

    frame_id: int  # counts from 0 at the stream's start and never goes back, not even when a file loops
    captured_at_s: float  # wall clock, seconds since the epoch
    stream_time_s: float  # the stream's own clock, which never goes back: a file's runs as fast as the file is read
    position: Position
    pixels: Callable[[], Pixels]  # converted on demand: a frame that is dropped costs no conversion


@dataclass(frozen=True)
class Letterbox:
    """How a picture was fitted into the model input: scaled, centred, padded."""

    width_px: int  # of the picture
    height_px: int
    input_shape: InputShape
    inner_width_px: int  # of the picture inside the model input
    inner_height_px: int
    pad_x_px: int
    pad_y_px: int


@dataclass(frozen=True)
class Detections:
    """The objects found in one picture, the most confident first: a struct of arrays of one length."""

    xyxy: NDArray[np.float32]  # (n, 4): left, top, right, bottom
    confidence: NDArray[np.float32]  # (n,)
    class_id: NDArray[np.int32]  # (n,)
    labels: tuple[str, ...] | None = None  # n of them, once the model's labels are known
    track_id: NDArray[np.int64] | None = None  # (n,), if the stream is tracked; -1 where an object has no track yet

    def __post_init__(self) -> None:
        n = len(self.confidence)
        expected = ((n, 4), (n,), (n,))
        actual = (self.xyxy.shape, self.confidence.shape, self.class_id.shape)
        if actual != expected:
            raise ValueError(f"Detections: expected shapes {expected}, got {actual}")
        for name, values in (("labels", self.labels), ("track_id", self.track_id)):
            if values is not None and len(values) != n:
                raise ValueError(f"Detections: expected {n} {name}, got {len(values)}")

    @classmethod
    def empty(cls) -> Detections:
        """Return detections of no object."""
        import numpy as np

        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), ())

    def labelled(self, labels: tuple[str, ...]) -> Detections:
        """Return the same objects with their labels. ``labels``: the model's, by class id."""
        return replace(self, labels=tuple(label_of(class_id, labels) for class_id in self.class_id.tolist()))

    def __len__(self) -> int:
        return len(self.confidence)

    def __iter__(self) -> Iterator[tuple[list[float], float, int]]:
        """Yield each object as plain Python numbers: box, confidence, class id."""
        return zip(self.xyxy.tolist(), self.confidence.tolist(), self.class_id.tolist(), strict=True)


def label_of(class_id: int, labels: Sequence[str]) -> str:
    """Return the label of a class id. ``labels``: the model's, by class id; an id that they lack is its own label."""
    return labels[class_id] if 0 <= class_id < len(labels) else f"class {class_id}"


@dataclass(frozen=True)
class DetectOptions:
    """The thresholds of one picture; every picture of a batch keeps its own."""

    confidence: float  # detections above it are kept
    iou: float  # two boxes of one class that overlap by more are one object; end-to-end models do without
    max_detections: int
    class_ids: tuple[int, ...] | None = None  # None: every class


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of the model that it has loaded."""

    name: str
    version: str  # 12 hex digits that change with the weights
    engine: str
    labels: tuple[str, ...]  # the label of each class id
    input_shape: InputShape
    end_to_end: bool  # no two rows of the raw output are of one object
    has_built_in_nms: bool = False  # end to end because the file suppresses boxes by thresholds of its own
    precision: Precision = "fp32"

    @property
    def suppression(self) -> Suppression:
        """What leaves one box of each object: a request's ``iou``, the head itself, or thresholds in the file."""
        if self.has_built_in_nms:
            return "in_file"
        return "not_needed" if self.end_to_end else "by_request"


@dataclass(frozen=True)
class ModelInfo:
    """A model that is being served: what a caller needs to make inputs for it and to read its answers."""

    engine: EngineInfo
    version: str  # 12 hex digits that change with the weights, the input shape and the defaults
    defaults: DetectOptions  # the thresholds of a request that names none

    @property
    def name(self) -> str:
        """The model's name, as answers give it."""
        return self.engine.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each class id."""
        return self.engine.labels

    @property
    def input_shape(self) -> InputShape:
        """The shape of the model's input."""
        return self.engine.input_shape

    def class_ids(self, wanted: Sequence[str | int], *, may_be_lists: bool = False) -> tuple[int, ...]:
        """Return the class ids of labels, of numbers, or of ids written as digits.

        A label that several classes have means all of them, and one of digits is a label before it is an id.
        ``may_be_lists``: a text that is no label may be several, with commas between them. Raises KeyError with the
        first unknown one.
        """
        known: dict[str | int, list[int]] = {}
        for class_id, label in enumerate(self.labels):
            known.setdefault(label, []).append(class_id)
        for class_id in range(len(self.labels)):
            known[class_id] = [class_id]
            known.setdefault(str(class_id), [class_id])
        found: set[int] = set()
        for value in wanted:
            name = value if isinstance(value, int) or value in known else value.strip()
            is_list = may_be_lists and isinstance(name, str) and name not in known
            for part in [one.strip() for one in str(name).split(",")] if is_list else [name]:
                found.update(known[part])
        return tuple(sorted(found))


@dataclass(frozen=True)
class DetectorState:
    """What a Detector serves now, and how far its roll-out of another model is."""

    model: ModelInfo
    is_changing: bool = False  # another model is being loaded
    refused_change: str = ""  # why the last change was refused; empty if it was not


@dataclass(frozen=True)
class DetectParams:
    """What a request, a stream or a job asks of a model. None takes the model's default."""

    model: str = DEFAULT_MODEL
    confidence: float | None = None
    iou: float | None = None
    max_detections: int | None = None
    classes: tuple[str | int, ...] = ()  # labels, class ids as digits, or class ids; none: every class
    classes_may_be_lists: bool = False  # one that is no label may be several, with commas between them: a query's

    def to_options(self, model: ModelInfo) -> DetectOptions:
        """Return the thresholds for this model. Raises InvalidParameter for a class that the model does not know."""
        try:
            known = model.class_ids(self.classes, may_be_lists=self.classes_may_be_lists)
        except KeyError as exc:
            unknown = exc.args[0][:64] if isinstance(exc.args[0], str) else exc.args[0]
            raise InvalidParameter(
                f"classes: the model {model.name} knows no class {unknown!r}: GET /models lists its labels"
            ) from None
        return DetectOptions(
            confidence=model.defaults.confidence if self.confidence is None else self.confidence,
            iou=model.defaults.iou if self.iou is None else self.iou,
            max_detections=self.max_detections or model.defaults.max_detections,
            class_ids=known if self.classes else None,
        )


@dataclass(frozen=True)
class Timing:
    """Where a picture's time went, in seconds."""

    decode_s: float = 0.0  # decoding and letterboxing
    queue_s: float = 0.0
    inference_s: float = 0.0
    postprocess_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True)
class SlotRef:
    """Where a frame lies in shared memory; nothing else of it travels between processes."""

    pool: str  # the name of the pool's file
    offset: int  # bytes from the start of the file
    input_shape: InputShape  # the frame's; a flag follows it, which is 1 while the frame is in the engine


@dataclass(frozen=True)
class PictureRequest:
    """One encoded picture for the Preprocessor."""

    data: bytes
    params: DetectParams
    time_left_s: float  # a duration, because the clocks of two nodes differ
    annotate: bool = False  # answer the picture with its boxes drawn, too
    tenant: str = ""  # tenants are served in turn
    is_suspect: bool = False  # a Preprocessor died while it had this picture: decode it in a process of its own


@dataclass(frozen=True)
class DetectRequest:
    """One model input for the Detector: a slot, or its bytes if the slot's memory is not shared."""

    frame: SlotRef | bytes
    options: DetectOptions
    time_left_s: float  # a duration, because the clocks of two nodes differ
    model_version: str  # the model the frame was letterboxed for
    traffic: Traffic
    tenant: str  # tenants of one kind of traffic are served in turn: a key, a stream, a job
    isolated: bool = False  # a Detector died with this frame in its engine: run it alone
    superseded: int = 0  # frames of the stream that were replaced by newer ones since the last one that it sent


@dataclass(frozen=True)
class DetectReply:
    """The Detector's answer to one model input, in model-input pixels."""

    detections: Detections
    timing: Timing
    batch_size: int = 0  # frames that the engine took together


@dataclass(frozen=True)
class Answer:
    """One picture's answer, in the pixels of the picture as a viewer shows it."""

    detections: Detections
    width_px: int
    height_px: int
    model: str
    batch_size: int
    timing: Timing
    annotated: bytes | None = None  # a JPEG with the boxes drawn, if it was asked for


@dataclass(frozen=True)
class Event:
    """Something that happened in a stream: a result, a change of state, a crossed line."""

    event_id: int  # counts up within a stream, also over restarts
    type: str
    stream_id: str
    json: str  # an object; the three fields above are in it, too


@dataclass(frozen=True)
class EventPage:
    """Some of a stream's events, the oldest first."""

    events: list[Event]
    last_id: int | None  # what to continue after if the page is empty; None: the next event to come
    missed: int  # events that were asked for and are no longer kept


@dataclass(frozen=True)
class Snapshot:
    """A frame as a picture."""

    frame_id: int
    jpeg: bytes
