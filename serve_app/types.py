"""The nouns: frozen values over numpy arrays, with their shapes beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DEFAULT_MODEL = "default"  # the name of the model that answers a request which names none

Traffic = Literal["interactive", "stream", "job"]  # who waits for the answer: a client, a live stream, nobody
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]  # what an engine computes in; auto: the engine chooses
Pixels = NDArray[np.uint8]  # (height, width, 3), BGR, as OpenCV decodes


@dataclass(frozen=True)
class Position:
    """Where in a video a frame is."""

    index: int  # from 0
    at_s: float | None = None  # its time stamp, where it has one


@dataclass(frozen=True)
class Frame:
    """One picture of a stream."""

    frame_id: int  # counts from 0 at the stream's start and never goes back, not even when a file loops
    captured_at_s: float  # wall clock, seconds since the epoch
    at_s: float  # on the stream's own clock, which never goes back: a file's is as fast as the file is read
    position: Position
    pixels: Callable[[], Pixels]  # made when asked for: a frame that is dropped costs no conversion


@dataclass(frozen=True)
class Letterbox:
    """How a picture was fitted into the square model input: scaled, centred, padded."""

    width_px: int  # of the picture
    height_px: int
    size_px: int  # of the model input
    inner_width_px: int  # of the picture inside the model input
    inner_height_px: int
    pad_x_px: int
    pad_y_px: int


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, the most confident first. A struct of arrays of one length."""

    xyxy: NDArray[np.float32]  # (n, 4): left, top, right, bottom
    confidence: NDArray[np.float32]  # (n,)
    class_id: NDArray[np.int32]  # (n,)

    def __post_init__(self) -> None:
        n = len(self.confidence)
        expected = ((n, 4), (n,), (n,))
        actual = (self.xyxy.shape, self.confidence.shape, self.class_id.shape)
        if actual != expected:
            raise ValueError(f"Detections: expected shapes {expected}, got {actual}")

    @classmethod
    def empty(cls) -> Detections:
        """No detection at all."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))

    def __len__(self) -> int:
        return len(self.confidence)

    def __iter__(self) -> Iterator[tuple[list[float], float, int]]:
        """Each detection as plain Python numbers: box, confidence, class id."""
        return zip(self.xyxy.tolist(), self.confidence.tolist(), self.class_id.tolist(), strict=True)


@dataclass(frozen=True)
class DetectOptions:
    """The thresholds of one picture; every picture of a batch keeps its own."""

    confidence: float  # above it
    iou: float  # two boxes of one class that overlap by more are one; end-to-end models do without
    max_detections: int
    class_ids: tuple[int, ...] | None = None  # None: every class


@dataclass(frozen=True)
class ModelInfo:
    """What a client or a neighbour needs to know of the loaded model."""

    name: str
    version: str  # 12 hex digits that change with the weights, the input size and the defaults
    engine: str
    labels: tuple[str, ...]  # label of each class id
    size_px: int  # the model input is (size_px, size_px, 3)
    end_to_end: bool  # the raw output's rows are sorted, and no two are of one object
    precision: Precision = "fp32"
    defaults: DetectOptions = DetectOptions(confidence=0.5, iou=0.7, max_detections=300)  # as the Detector is set
    refused_change: str = ""  # why it is not the one that the Detector was to change to
    is_changing: bool = False  # to another one, which is being loaded

    def class_ids(self, wanted: tuple[str, ...]) -> tuple[int, ...]:
        """Class ids of labels or of ids written as digits. Raises KeyError with the first unknown one."""
        known = {label: class_id for class_id, label in enumerate(self.labels)}
        known = {str(class_id): class_id for class_id in range(len(self.labels))} | known
        return tuple(sorted({known[name] for name in wanted}))


@dataclass(frozen=True)
class SlotRef:
    """Where a frame lies in shared memory; all that travels of it."""

    pool: str  # name of the pool's file
    offset: int  # bytes from the start of the file
    size_px: int  # the slot is (size_px, size_px, 3) uint8, and after it a mark: 1 while the frame is in the engine


@dataclass(frozen=True)
class DetectRequest:
    """One model input for the Detector: a slot, or its bytes where the slot's memory is not shared."""

    frame: SlotRef | bytes
    options: DetectOptions
    time_left_s: float  # a duration, since clocks of two nodes differ
    model_version: str  # the model the frame was letterboxed for
    traffic: Traffic
    tenant: str  # within its kind of traffic, tenants take turns: a stream's id, a job's
    isolated: bool = False  # the engine died with this frame in it: no other is to be in it beside this one again
    given_up: int = 0  # frames of a stream that gave way to newer ones since the last one that it sent


@dataclass(frozen=True)
class DetectReply:
    """The Detector's answer, in model-input pixels, with where the time went."""

    detections: Detections
    queue_s: float
    inference_s: float
    postprocess_s: float
    batch_size: int  # items that were taken together


@dataclass(frozen=True)
class Answer:
    """One picture's answer, in the pixels of the picture as a viewer shows it."""

    detections: Detections
    labels: tuple[str, ...]  # of each detection
    width_px: int
    height_px: int
    model: str
    batch_size: int
    timing_s: dict[str, float] = field(default_factory=dict)  # decode, queue, inference, postprocess, total
    annotated: bytes | None = None  # JPEG with the boxes drawn, when asked for


@dataclass(frozen=True)
class Event:
    """Something that happened in a stream: a result, a change of state, a crossed line."""

    event_id: int  # counts up within a stream, also over restarts
    type: str
    stream_id: str
    json: str  # an object; the three above are in it, too


@dataclass(frozen=True)
class EventPage:
    """Some of a stream's events, the oldest first."""

    events: list[Event]
    last_id: int | None  # what to ask on from, where the page is empty; None: those to come
    missed: int  # events that were wanted and are no longer kept


@dataclass(frozen=True)
class Snapshot:
    """A frame as a picture."""

    frame_id: int
    jpeg: bytes


Json = dict[str, Any]
