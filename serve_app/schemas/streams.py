"""The JSON of streams: what one is asked to be, what it says of itself, and what happens in it."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.schemas.detect import Detection, DetectSettings, Found, answer_fields
from serve_app.types import Answer, Frame

Policy = Literal["wait", "drop_oldest"]
State = Literal["starting", "running", "reconnecting", "stalled", "blocked", "paused", "completed", "failed"]
EventType = Literal["result", "state", "gap", "zone", "line", "recording"]

_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
Coordinate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]  # of the picture's width or height
Point = tuple[Coordinate, Coordinate]  # x, y
Label = Annotated[str, Field(min_length=1, max_length=64)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSpec(_Spec):
    """Where frames come from."""

    uri: str = Field(
        min_length=1,
        max_length=4096,
        description="A file or a folder of pictures below SERVE_APP_MEDIA_DIRS, a device (`/dev/video0`), or an "
        "`rtsp`, `rtsps`, `http`, `https`, `udp` or `tcp` address. An HTTP address that answers one picture is asked "
        "again at `max_fps`, or once a second.",
    )
    loop: bool = Field(False, description="Start a file over when it ends.")
    tls_verify: bool = Field(
        True,
        description="Of `https` and `rtsps`: false takes any certificate, which many cameras need.",
    )


class Motion(_Spec):
    """Frames in which nothing moved skip the model."""

    threshold: float = Field(0.01, gt=0, lt=1, description="Share of the picture that has to change.")
    max_skip_s: float = Field(10.0, gt=0, le=3600, description="A frame goes to the model at least this often.")


class Zone(_Spec):
    """An area. An object is inside when the middle of its box's lower edge is."""

    name: Label
    polygon: list[Point] = Field(min_length=3, max_length=64)
    labels: list[Label] = Field([], description="Only these count. Default: every label.")


class Line(_Spec):
    """An object crosses it with the middle of its box's lower edge: in, to the right of who looks from start to end."""

    name: Label
    start: Point
    end: Point
    labels: list[Label] = []

    @model_validator(mode="after")
    def _has_a_length(self) -> Line:
        if self.start == self.end:
            raise ValueError("a line that ends where it starts")
        return self


class Regions(_Spec):
    """What is counted. A stream with any of them is tracked."""

    zones: list[Zone] = Field([], max_length=32)
    lines: list[Line] = Field([], max_length=32)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Regions:
        names = [zone.name for zone in self.zones] + [line.name for line in self.lines]
        if len(set(names)) < len(names):
            raise ValueError("two zones or lines of one name")
        return self


class _SinkSpec(_Spec):
    events: list[EventType] = Field(["result", "state", "gap", "zone", "line", "recording"], min_length=1)


class JsonLinesSink(_SinkSpec):
    """A line an event, in a file that is rotated by size."""

    type: Literal["jsonl"]
    path: str = Field(
        "events.jsonl",
        pattern=r"\.jsonl$",
        max_length=255,
        description="Below the stream's own folder, which has its id for a name, in streams.output_dir.",
    )
    max_mib: float = Field(64, ge=1, le=65536, description="A file of this size is put aside.")
    keep: int = Field(4, ge=1, le=1000, description="Files that were put aside.")


class WebhookSink(_SinkSpec):
    """Events as POST requests, signed as the Standard Webhooks specification says when there is a secret."""

    type: Literal["webhook"]
    url: str = Field(pattern=r"^https?://", max_length=4096)
    secret: str = Field("", max_length=256, description="`whsec_` and base64.")
    max_batch: int = Field(100, ge=1, le=1000, description="Events a request.")


class MqttSink(_SinkSpec):
    """A message an event."""

    type: Literal["mqtt"]
    url: str = Field(pattern=r"^mqtts?://", max_length=4096, description="`mqtt://user:password@host:1883`")
    topic: str = Field("sightline/{stream_id}/{type}", min_length=1, max_length=1024)
    qos: Literal[0, 1] = 1


class RedisSink(_SinkSpec):
    """An entry of a Redis Stream an event, in its field `event`."""

    type: Literal["redis"]
    url: str = Field(pattern=r"^rediss?://", max_length=4096)
    key: str = Field("sightline:{stream_id}", min_length=1, max_length=1024)
    max_length: int = Field(10_000, ge=1, le=10_000_000, description="Older entries are trimmed.")


SinkSpec = Annotated[JsonLinesSink | WebhookSink | MqttSink | RedisSink, Field(discriminator="type")]


class Recording(_Spec):
    """A clip and a snapshot, boxes drawn, each time that something is seen."""

    labels: list[Label] = Field([], description="What starts one. Default: any detection.")
    pre_roll_s: float = Field(5.0, ge=0, le=30)
    post_roll_s: float = Field(5.0, ge=0, le=60, description="After it was last seen.")
    max_clip_s: float = Field(60.0, gt=0, le=600, description="After it was first seen.")
    max_fps: float = Field(5.0, gt=0, le=30, description="Of a clip: more cost more.")
    keep: int = Field(50, ge=1, le=10_000, description="Clips; the oldest one goes first.")


class StreamSpec(Regions):
    """Everything a stream is asked to be: the body of `POST /streams`."""

    id: str = Field(default_factory=lambda: f"stream-{uuid4().hex[:8]}", pattern=_ID)
    source: SourceSpec
    detect: DetectSettings = DetectSettings()
    policy: Policy | None = Field(
        None,
        description="When the detector is slower than the source: `wait` for it (a file's default), or skip to the "
        "newest frame and count what is dropped (a live source's default; a file then plays at its own pace).",
    )
    max_fps: float | None = Field(None, gt=0, le=1000)
    motion: Motion | None = None
    track: bool = False
    sinks: list[SinkSpec] = Field([], max_length=8)
    recording: Recording | None = None
    tags: dict[Label, Annotated[str, Field(max_length=256)]] = Field({}, max_length=32)
    degrade: bool = Field(False, description="Start it where the detectors cannot hold it, too: frames are dropped.")
    paused: bool = False

    @property
    def is_tracked(self) -> bool:
        """Objects have an id from frame to frame."""
        return bool(self.track or self.zones or self.lines)


class TrackedDetection(Detection):
    """One object of a frame."""

    track_id: int | None = Field(None, description="The same from frame to frame, where the stream is tracked.")


class StreamResult(Found):
    """What was found in one frame of a stream."""

    detections: list[TrackedDetection]  # type: ignore[assignment]  # each is a Detection
    stream_id: str
    frame_id: int
    captured_at_s: float = Field(description="Wall clock, seconds since the epoch.")
    age_s: float = Field(description="From capture to result.")

    @classmethod
    def from_answer(cls, answer: Answer, frame: Frame, *, stream_id: str) -> StreamResult:
        """Return the answer as JSON; ``total`` is the result's age. A track id of -1 is none."""
        tracks = answer.detections.track_id
        track_ids = [-1] * len(answer.detections) if tracks is None else tracks.tolist()
        fields = answer_fields(answer)
        fields["detections"] = [
            TrackedDetection(**dict(detection), track_id=track_id if track_id >= 0 else None)
            for detection, track_id in zip(fields["detections"], track_ids, strict=True)
        ]
        return cls(
            stream_id=stream_id,
            frame_id=frame.frame_id,
            captured_at_s=frame.captured_at_s,
            age_s=round(answer.timing.total_s, 4),
            **fields,
        )


class StateChange(BaseModel):
    """Event ``state``: the stream's state is another one."""

    state: State
    previous: State
    detail: str = Field(description="Why, where the state does not say it all.")


class Gap(BaseModel):
    """Event ``gap``: another process has taken the stream over, and frames have no result."""

    next_frame_id: int = Field(description="The first frame after the gap.")
    lost: int = Field(
        description="Frames that were captured and have no result. What a camera sent since, nobody knows."
    )
    away_s: float = Field(description="Since the last frame before the gap.")


class ZoneChange(BaseModel):
    """Event ``zone``: an object entered or left a zone."""

    frame_id: int
    captured_at_s: float
    zone: str
    change: Literal["entered", "left"]
    track_id: int
    label: str
    dwell_s: float | None = Field(description="How long it was inside, when it left.")


class LineCrossing(BaseModel):
    """Event ``line``: an object crossed a line."""

    frame_id: int
    captured_at_s: float
    line: str
    direction: Literal["in", "out"]
    track_id: int
    label: str


class ClipNotice(BaseModel):
    """Event ``recording``: a clip was begun, with a snapshot of what started it, or finished."""

    change: Literal["started", "finished"]
    clip: str = Field(description="File names, in the stream's folder below streams.output_dir.")
    snapshot: str
    labels: list[str] = Field(description="What was seen.")
    began_at_s: float = Field(description="Wall clock, of its first frame.")
    duration_s: float | None = Field(description="When finished.")


class ZoneCount(BaseModel):
    """A zone's counts since the stream began, and how long each object has been inside now."""

    inside: int
    entered: int
    left: int
    dwell_s: dict[int, float] = Field(description="By track id.")


class LineCount(BaseModel):
    """A line's counts since the stream began."""

    crossed_in: int
    crossed_out: int


class SinkStatus(BaseModel):
    """A sink's counters. ``accepted = sent + dropped + waiting``."""

    type: str
    target: str = Field(description="Without credentials.")
    sent: int
    waiting: int
    dropped: dict[str, int] = Field(description="By reason.")
    detail: str = Field(description="What is wrong with it now.")


class RecordingStatus(BaseModel):
    """What a stream's recorder has done."""

    is_recording: bool
    clips: int = Field(description="Finished since the stream's process started.")
    dropped: dict[str, int] = Field(description="Frames that are in no clip, by reason.")
    detail: str = Field(description="What is wrong with it now.")


class StreamStatus(BaseModel):
    """A stream's state and counters. ``captured = processed + dropped``, but for the frames under way.

    Counters are since the stream was created: they outlive its process.
    """

    stream_id: str
    state: State
    detail: str = Field(default="", description="Why, where the state does not say it all.")
    source: str = Field(description="Without credentials.")
    policy: Policy
    tags: dict[str, str] = {}
    uptime_s: float = Field(default=0, description="Of its process.")
    restarts: int = Field(default=0, description="How often its process ended and was started again.")
    source_fps: float | None = Field(default=None, description="As the source says itself.")
    captured: int = 0
    processed: int = 0
    dropped: dict[str, int] = Field(default={}, description="By reason.")
    passed_over: int = Field(default=0, description="Files of a folder that are no pictures.")
    reconnects: int = 0
    camera_fps: float = 0
    processed_fps: float = 0
    dropped_fps: float = 0
    zones: dict[str, ZoneCount] = Field(default={}, description="By name.")
    lines: dict[str, LineCount] = Field(default={}, description="By name.")
    sinks: list[SinkStatus] = []
    recording: RecordingStatus | None = None
    latest: StreamResult | None = None


class StreamList(BaseModel):
    """Every stream, sorted by id."""

    streams: list[StreamStatus]
