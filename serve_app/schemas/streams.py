"""The JSON of streams: specification, status and events."""

from __future__ import annotations

from typing import Annotated, Literal, get_args
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.schemas.decoding import DecodingStatus
from serve_app.schemas.detect import Detection, DetectSettings, Found, added, answer_fields
from serve_app.schemas.recording import RecordingStatus
from serve_app.schemas.scene import SceneHealth, SceneHealthSettings
from serve_app.schemas.sinks import SinkStatus
from serve_app.thresholds import Confidence
from serve_app.types import Answer, Frame

Policy = Literal["wait", "drop_oldest"]
State = Literal["starting", "running", "reconnecting", "stalled", "blocked", "paused", "completed", "failed"]
EventType = Literal["result", "state", "gap", "zone", "line", "recording", "scene_health", "label", "drift"]

ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
Coordinate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]  # as a fraction of the image's width or height
Point = tuple[Coordinate, Coordinate]  # x, y
Label = Annotated[str, Field(min_length=1, max_length=64)]


class Spec(BaseModel):
    """A part of a specification, in which an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSpec(Spec):
    """The source of a stream's frames."""

    uri: str = Field(
        min_length=1,
        max_length=4096,
        description="A file or a folder of images below SERVE_APP_MEDIA_DIRS, a device (`/dev/video0`), or an "
        "`rtsp`, `rtsps`, `http`, `https`, `udp` or `tcp` URL. An HTTP URL that returns a single image is requested "
        "`max_fps` times per second. If `max_fps` is not set, the URL is requested once per second.",
    )
    loop: bool = Field(False, description="Play a file again when it ends.")
    tls_verify: bool = Field(
        True,
        description="Check the certificate of `https` and `rtsps` sources. Many cameras have a self-signed "
        "certificate and need `false`.",
    )


class SourceSnapshot(Spec):
    """The body of `POST /streams/snapshot`."""

    source: SourceSpec


class Motion(Spec):
    """The motion filter: frames in which nothing has moved skip the model."""

    threshold: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="The model gets a frame if at least this fraction of the image differs from the last frame that "
        "the model got.",
    )
    max_skip_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="The model gets a frame at least once in this many seconds, even if nothing moves.",
    )


class Zone(Spec):
    """An area of the image.

    An object is inside the zone while its position is. The position is the middle of the lower edge of the object's
    box, or the middle of the visible ankles if the model finds the 17 keypoints of people.
    """

    name: Label
    polygon: list[Point] = Field(min_length=3, max_length=64)
    labels: list[Label] = Field([], description="Count only objects with these labels. Default: every label.")
    confidence: Confidence | None = added(
        "Count only objects above this confidence: a number, or a number for each label. It has an effect only if it "
        "is higher than that of `detect`."
    )


class Line(Spec):
    """A line that objects cross. An object crosses the line when its position does: see `Zone`.

    Looking from `start` to `end`, a crossing from left to right is `in`, and a crossing from right to left is `out`.
    """

    name: Label
    start: Point
    end: Point
    labels: list[Label] = []
    confidence: Confidence | None = added("Count only objects above this on both sides of the line: see `Zone`.")

    @model_validator(mode="after")
    def _has_a_length(self) -> Line:
        if self.start == self.end:
            raise ValueError("a line must not end where it starts; move one of the two points")
        return self


class Regions(Spec):
    """The zones and lines for which objects are counted. In a stream that has zones or lines, objects are tracked."""

    zones: list[Zone] = Field([], max_length=32)
    lines: list[Line] = Field([], max_length=32)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Regions:
        names = [zone.name for zone in self.zones] + [line.name for line in self.lines]
        if len(set(names)) < len(names):
            raise ValueError("two zones or lines have the same name; rename one")
        return self


class _SinkSpec(Spec):
    events: list[EventType] = Field(list(get_args(EventType)), min_length=1)


class JsonLinesSink(_SinkSpec):
    """A sink that writes one JSON line per event to a file, which is rotated by size."""

    type: Literal["jsonl"]
    path: str = Field(
        "events.jsonl",
        pattern=r"\.jsonl$",
        max_length=255,
        description="A path inside the folder `streams.output_dir`/ID, where ID is the stream's id.",
    )
    max_mib: float = Field(64, ge=1, le=65536, description="The file is rotated at this size.")
    keep: int = Field(4, ge=1, le=1000, description="How many rotated files are kept.")


class WebhookSink(_SinkSpec):
    """A sink that sends events as POST requests.

    With a secret, the requests are signed as Standard Webhooks specifies.
    """

    type: Literal["webhook"]
    url: str = Field(pattern=r"^https?://", max_length=4096)
    secret: str = Field("", max_length=256, description="The signing secret: `whsec_` followed by base64.")
    max_batch: int = Field(100, ge=1, le=1000, description="The maximum number of events in one request.")


class MqttSink(_SinkSpec):
    """A sink that publishes one MQTT message per event."""

    type: Literal["mqtt"]
    url: str = Field(
        pattern=r"^mqtts?://", max_length=4096, description="For example `mqtt://user:password@host:1883`."
    )
    topic: str = Field("sightline/{stream_id}/{type}", min_length=1, max_length=1024)
    qos: Literal[0, 1] = 1


class RedisSink(_SinkSpec):
    """A sink that adds one entry per event to a Redis Stream. The entry's field `event` has the JSON of the event."""

    type: Literal["redis"]
    url: str = Field(pattern=r"^rediss?://", max_length=4096)
    key: str = Field("sightline:{stream_id}", min_length=1, max_length=1024)
    max_length: int = Field(
        10_000, ge=1, le=10_000_000, description="The maximum number of entries to keep; older entries are trimmed."
    )


class VideoSink(Spec):
    """A sink that publishes the stream's frames as H.264 video to an RTSP server."""

    type: Literal["video"]
    url: str = Field(
        pattern=r"^rtsp://", max_length=4096, description="For example `rtsp://user:password@host:8554/yard`."
    )
    boxes: bool = Field(True, description="Draw what the model has found.")
    max_fps: float = Field(15.0, gt=0, le=60, description="The frame rate of the video; more frames cost more CPU.")


EventSinkSpec = JsonLinesSink | WebhookSink | MqttSink | RedisSink
SinkSpec = Annotated[EventSinkSpec | VideoSink, Field(discriminator="type")]


class Recording(Spec):
    """The recorder, which writes a clip and a snapshot with boxes each time that an object is detected."""

    labels: list[Label] = Field([], description="Labels that start a clip. Default: any detection.")
    pre_roll_s: float = Field(5.0, ge=0, le=30, description="Seconds of video before the first detection.")
    post_roll_s: float = Field(5.0, ge=0, le=60, description="Seconds of video after the last detection.")
    max_clip_s: float = Field(
        60.0, gt=0, le=600, description="A clip ends at most this many seconds after its first detection."
    )
    max_fps: float = Field(5.0, gt=0, le=30, description="The frame rate of a clip; more frames cost more CPU time.")
    keep: int = Field(50, ge=1, le=10_000, description="How many clips are kept; the oldest is deleted first.")


class StreamSpec(Regions):
    """The specification of a stream, which is the body of `POST /streams`."""

    id: str = Field(default_factory=lambda: f"stream-{uuid4().hex[:8]}", pattern=ID)
    source: SourceSpec
    detect: DetectSettings = DetectSettings()
    policy: Policy | None = Field(
        None,
        description="What to do when the detector is slower than the source. `wait` processes every frame; it is the "
        "default for files. `drop_oldest` skips to the newest frame and counts the dropped frames; it is the default "
        "for live sources. With `drop_oldest`, a file is played at its own frame rate.",
    )
    max_fps: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="The maximum number of frames per second that the model gets. The field `decoding` of the stream's "
        "status says which of the other frames are decoded.",
    )
    motion: Motion | None = None
    scene_health: SceneHealthSettings = SceneHealthSettings()
    track: bool = False
    label_after_s: float = Field(
        2.0,
        ge=0,
        le=3600,
        description="For a model that classifies: after how many seconds with another most probable class the event "
        "`label` is sent.",
    )
    sinks: list[SinkSpec] = Field([], max_length=8)
    recording: Recording | None = None
    tags: dict[Label, Annotated[str, Field(max_length=256)]] = Field({}, max_length=32)
    degrade: bool = Field(
        False, description="Start the stream even if the detectors lack the capacity for it; frames are then dropped."
    )
    collect: bool = Field(
        True, description="Whether frames may be kept for training, if the server's setting `collect.folder` is set."
    )
    paused: bool = False

    @property
    def is_tracked(self) -> bool:
        """Whether an object keeps its id from frame to frame."""
        return bool(self.track or self.zones or self.lines)


class TrackedDetection(Detection):
    """One detected object in a frame of a stream."""

    track_id: int | None = Field(
        None, description="The id that the object keeps from frame to frame, if the stream tracks objects."
    )


class StreamResult(Found):
    """The detections in one frame of a stream."""

    detections: list[TrackedDetection]  # type: ignore[assignment]  # each is a Detection
    stream_id: str
    frame_id: int
    captured_at_s: float = Field(description="When the frame was captured, in seconds since the epoch.")
    age_s: float = Field(description="Seconds from capture to result.")

    @classmethod
    def from_answer(cls, answer: Answer, frame: Frame, *, stream_id: str) -> StreamResult:
        """Return the answer as JSON. The total time becomes ``age_s``, and a track id of -1 becomes null."""
        tracks = answer.detections.track_id
        track_ids = [-1] * len(answer.detections) if tracks is None else tracks.tolist()
        fields = answer_fields(answer)
        for detection, track_id in zip(fields["detections"], track_ids, strict=True):
            detection["track_id"] = track_id if track_id >= 0 else None
        return cls(
            stream_id=stream_id,
            frame_id=frame.frame_id,
            captured_at_s=frame.captured_at_s,
            age_s=round(answer.timing.total_s, 4),
            **fields,
        )


class StateChange(BaseModel):
    """The event ``state``: the stream's state has changed."""

    state: State
    previous: State
    detail: str = Field(description="The reason for the state, if it needs one.")


class Gap(BaseModel):
    """The event ``gap``: a new process continues the stream, and some frames have no result."""

    next_frame_id: int = Field(description="The first frame after the gap.")
    lost: int = Field(
        description="The number of captured frames without a result. Frames that a camera sent during the gap are "
        "not counted."
    )
    away_s: float = Field(
        description="Seconds between the last frame before the gap and the first frame after the gap."
    )


class ZoneChange(BaseModel):
    """The event ``zone``: an object entered or left a zone."""

    frame_id: int
    captured_at_s: float
    zone: str
    change: Literal["entered", "left"]
    track_id: int
    label: str
    dwell_s: float | None = Field(description="How many seconds the object was inside; set only when the object left.")


class LineCrossing(BaseModel):
    """The event ``line``: an object crossed a line."""

    frame_id: int
    captured_at_s: float
    line: str
    direction: Literal["in", "out"]
    track_id: int
    label: str


class LabelChange(BaseModel):
    """The event ``label``: another class has become the most probable one of the frames."""

    frame_id: int
    captured_at_s: float
    label: str
    previous: str | None = Field(description="The class before, or null for the stream's first.")
    confidence: float


class ZoneCount(BaseModel):
    """A zone's counters since the stream was created, and how long each object has been inside."""

    inside: int
    entered: int
    left: int
    dwell_s: dict[int, float] = Field(description="Seconds for which each object has been inside, by track id.")


class LineCount(BaseModel):
    """A line's counters since the stream was created."""

    crossed_in: int
    crossed_out: int


class StreamStatus(BaseModel):
    """A stream's state and counters. ``captured = processed + dropped``, apart from frames in flight.

    The counters start when the stream is created, and survive a restart of the stream's process.
    """

    stream_id: str
    state: State
    detail: str = Field(default="", description="The reason for the state, if it needs one.")
    owner: str | None = Field(default=None, description="The name of the API key that made the stream.")
    source: str = Field(description="The source, without credentials.")
    policy: Policy
    tags: dict[str, str] = {}
    uptime_s: float = Field(default=0, description="Seconds since the stream's process started.")
    restarts: int = Field(default=0, description="How often the stream's process was restarted.")
    source_fps: float | None = Field(default=None, description="The frame rate that the source declares.")
    captured: int = 0
    processed: int = 0
    dropped: dict[str, int] = Field(default={}, description="Dropped frames, by reason.")
    passed_over: int = Field(default=0, description="The number of files in the source's folder that are not images.")
    reconnects: int = 0
    camera_fps: float = 0
    processed_fps: float = 0
    dropped_fps: float = 0
    zones: dict[str, ZoneCount] = Field(default={}, description="The zones' counters, by name.")
    lines: dict[str, LineCount] = Field(default={}, description="The lines' counters, by name.")
    sinks: list[SinkStatus] = []
    recording: RecordingStatus | None = None
    scene_health: SceneHealth | None = Field(
        default=None, description="Whether the camera still sees its scene. Null if it is not checked."
    )
    decoding: DecodingStatus | None = Field(
        default=None, description="How the video is decoded. Null for a source of single images, and before it is open."
    )
    label: str | None = added("The class in the last event `label`.")
    latest: StreamResult | None = None


class StreamList(BaseModel):
    """The status of every stream that the API key may see, sorted by id."""

    streams: list[StreamStatus]
    owner: str | None = Field(
        default=None, description="The name of the request's API key, which owns the streams that it creates."
    )
