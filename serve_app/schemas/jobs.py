"""The JSON of jobs: specification, status, items and events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple
from uuid import uuid4

from pydantic import BaseModel, Field

from serve_app.schemas.detect import CLASSES, KEYPOINT_NAMES, ClassConfidence, Detection, DetectSettings, ImageSize
from serve_app.schemas.sinks import SinkStatus
from serve_app.schemas.streams import ID, Label, Spec, WebhookSink
from serve_app.types import Json

JobState = Literal[
    "collecting",  # files are being uploaded
    "queued",
    "running",
    "paused",
    "blocked",  # it waits for a model, a bucket or space, and tries again by itself
    "finishing",  # the outputs are being written
    "completed",
    "cancelling",
    "cancelled",
    "failed",
    "expired",  # only the counts are kept
]
AT_REST: frozenset[JobState] = frozenset({"completed", "cancelled", "failed", "expired"})
JobEventType = Literal["state", "progress"]
Format = Literal["jsonl", "csv", "coco", "yolo", "parquet"]
ItemState = Literal["succeeded", "failed"]

MAX_URLS = 10_000  # in the body of a request; longer lists are read from a file


class FilesSource(Spec):
    """The images in a folder, or those whose paths match a glob."""

    type: Literal["files"]
    path: str = Field(
        min_length=1,
        max_length=4096,
        description="A folder (with its subfolders), a file or a glob such as `night/**/*.jpg`, below "
        "`SERVE_APP_MEDIA_DIRS`.",
    )


class ObjectsSource(Spec):
    """The images in a bucket below a prefix that `SERVE_APP_JOBS_ALLOWED_URIS` allows."""

    type: Literal["objects"]
    uri: str = Field(
        min_length=1,
        max_length=4096,
        description="`s3://bucket/prefix`, `gs://…` or `az://…`, optionally with a glob after the prefix. The server's "
        "own credentials are used.",
    )


class ArchiveSource(Spec):
    """The images in a zip, tar or tar.gz file."""

    type: Literal["archive"]
    path: str = Field(min_length=1, max_length=4096, description="A file below `SERVE_APP_MEDIA_DIRS`, or an object.")


class UrlEntry(Spec):
    """One URL, with an id of the client's own that is repeated in the result."""

    url: str = Field(min_length=1, max_length=8192)
    id: str = Field("", max_length=256)


class UrlsSource(Spec):
    """Images behind http or https URLs. The setting `outbound.detect_urls` must be on."""

    type: Literal["urls"]
    urls: list[UrlEntry | str] = Field([], max_length=MAX_URLS, description="URLs, or objects with `url` and `id`.")
    path: str = Field(
        "",
        max_length=4096,
        description="A file below `SERVE_APP_MEDIA_DIRS` or an object: a URL per line, JSON Lines with `url` and `id`, "
        "or CSV with a header.",
    )


VIDEO_ENDINGS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".ts", ".mpg", ".mpeg", ".wmv", ".flv")


class VideoSource(Spec):
    """The frames of a video file."""

    type: Literal["video"]
    path: str = Field(min_length=1, max_length=4096, description="A file below `SERVE_APP_MEDIA_DIRS`, or an object.")
    every_s: float | None = Field(None, gt=0, le=3600, description="One frame in this many seconds. Default: each.")
    every_frames: int | None = Field(None, ge=1, le=100_000, description="Each frame whose number this divides.")


class UploadSource(Spec):
    """Files that the client uploads: with the request, or with `PUT /jobs/{id}/files/{name}` before `POST …/start`."""

    type: Literal["upload"]


SourceSpec = Annotated[
    FilesSource | ObjectsSource | ArchiveSource | UrlsSource | VideoSource | UploadSource, Field(discriminator="type")
]


class OutputSpec(Spec):
    """A place to which the results are written when the job ends."""

    uri: str = Field(
        "",
        max_length=4096,
        description="A folder below `SERVE_APP_OUTPUT_DIR` or a prefix that `SERVE_APP_JOBS_ALLOWED_URIS` allows. "
        "Default: the job's own folder, from which `GET /jobs/{id}/results` reads.",
    )
    formats: list[Format] = Field(["jsonl"], max_length=5)
    annotated: bool = Field(False, description="Also write each image with its boxes drawn, as a JPEG. Needs `uri`.")
    crops: bool = Field(False, description="Also write each detected object as a JPEG. Needs `uri`.")


class JobWebhook(WebhookSink):
    """A webhook that is told about the job's state and progress."""

    events: list[JobEventType] = Field(["state"], min_length=1)  # type: ignore[assignment]


class MaxFailed(Spec):
    """The limit of failed items: with more, the job fails and stops."""

    share: float = Field(0.5, ge=0, le=1, description="The largest share of the items that may fail.")
    after: int = Field(1000, ge=1, description="How many items must be done before the share counts.")


class JobSpec(Spec):
    """The specification of a job, which is the body of `POST /jobs`."""

    id: str = Field(default_factory=lambda: f"job-{uuid4().hex[:8]}", pattern=ID)
    source: SourceSpec
    detect: DetectSettings = DetectSettings()
    outputs: list[OutputSpec] = Field([], max_length=8)
    sinks: list[JobWebhook] = Field([], max_length=8)
    max_failed: MaxFailed = MaxFailed()
    attempts: int = Field(
        3,
        ge=1,
        le=10,
        description="How often an image is tried whose server or disk does not answer. The pauses between grow.",
    )
    pin_model: bool = Field(
        True, description="Fail the job if the model changes meanwhile. Otherwise, each result names its model."
    )
    weight: float = Field(
        1.0,
        ge=0.001,
        le=1000,
        description="The job's share of the runners, among the jobs of its owner. Owners share the runners equally.",
    )
    max_images_per_s: float | None = Field(None, gt=0, le=1e6)
    expires_after_s: float = Field(604_800, ge=60, le=31_536_000, description="How long a finished job is kept.")
    paused: bool = False
    tags: dict[Label, Annotated[str, Field(max_length=256)]] = Field({}, max_length=32)


class UnitCounts(BaseModel):
    """The numbers of units. A unit is a piece of the job's work, of up to 32 images or 10 s of video."""

    open: int = 0
    out: int = Field(0, description="Units that runners are working on.")
    done: int = 0
    repeated: int = Field(
        0,
        description="How often a unit was begun again, because a process died or was stopped, or because no runner "
        "could work on it then.",
    )


class OutputStatus(BaseModel):
    """The progress of an output. ``written`` counts files, and ``detail`` is the output's current problem."""

    uri: str
    formats: list[Format]
    written: int = 0
    detail: str = ""


class JobStatus(BaseModel):
    """A job's state and counters. ``items = succeeded + failed + waiting + in_flight``."""

    job_id: str
    state: JobState
    detail: str = Field("", description="The reason for the state, if it needs one.")
    owner: str | None = Field(None, description="The name of the API key that made the job.")
    source: str = Field(description="The source, without credentials.")
    tags: dict[str, str] = {}
    listed: bool = Field(False, description="Whether the whole source has been listed. Until then, `items` grows.")
    items: int = 0
    succeeded: int = 0
    failed: int = 0
    waiting: int = 0
    in_flight: int = 0
    errors: dict[str, int] = Field({}, description="Failed items, by the code of their error.")
    detections: dict[str, int] = Field(
        {}, description="Detected objects, by label. If the model classifies: images, by their most probable label."
    )
    images_per_s: float = Field(0.0, description="The rate of the last minute.")
    eta_s: float | None = Field(None, description="Seconds until the last item, at the present rate.")
    units: UnitCounts = UnitCounts()
    models: dict[str, int] = Field({}, description="Items by model, as `name@version`.")
    created_at_s: float
    started_at_s: float | None = None
    finished_at_s: float | None = None
    expires_at_s: float | None = None
    outputs: list[OutputStatus] = []
    sinks: list[SinkStatus] = []


class JobList(BaseModel):
    """The status of the newest jobs, the newest first. ``next`` is the value of ``after`` for more."""

    jobs: list[JobStatus]
    next: str | None = None


class JobResult(BaseModel):
    """The detections in one item of a job. This is one line of the results.

    It has the fields of the answer of `POST /detect` but for the times and the size of the batch, so that two runs of a
    job have the same results.
    """

    job_id: str
    item: int = Field(description="The item's number in the job. Numbers may have gaps.")
    name: str = Field(description="The file's name, the object's key or the URL. A frame has its video's name.")
    id: str | None = Field(None, description="The client's own id from a list of URLs.")
    time_s: float | None = Field(None, description="The frame's time in its video.")
    count: int
    detections: list[Detection]
    classes: list[ClassConfidence] | None = CLASSES
    keypoint_names: list[str] | None = KEYPOINT_NAMES
    image: ImageSize
    model: str


class BoxRow(NamedTuple):
    """One detected object, as a row of a table. The box is in pixels of the image as a viewer shows it.

    A class of a whole image is a row, too. It has no box.
    """

    item: int
    name: str
    id: str | None
    time_s: float | None
    width: int
    height: int
    model: str
    label: str
    class_id: int
    confidence: float
    x1: float | None
    y1: float | None
    x2: float | None
    y2: float | None

    @classmethod
    def of(cls, result: Json) -> Iterator[BoxRow]:
        """Yield a row for each detected object in the JSON of a ``JobResult``, or for each class of its image."""
        image, no_box = result["image"], dict.fromkeys(("x1", "y1", "x2", "y2"))
        about = result["item"], result["name"], result.get("id"), result.get("time_s")
        for found in [*result["detections"], *(result.get("classes") or ())]:
            box = found.get("bbox", no_box)
            yield cls(
                *about,
                image["width"],
                image["height"],
                result["model"],
                found["label"],
                found["class_id"],
                found["confidence"],
                box["x1"],
                box["y1"],
                box["x2"],
                box["y2"],
            )


class JobFailure(BaseModel):
    """An item that has no detections, and the reason."""

    job_id: str
    item: int
    name: str
    id: str | None = None
    code: str
    detail: str


class JobItems(BaseModel):
    """A page of a job's items that are done. ``next`` is the value of ``after`` for the next page."""

    items: list[JobResult | JobFailure]
    next: int | None = None


class JobStateChange(BaseModel):
    """The event ``state``: the job's state has changed."""

    state: JobState
    previous: JobState
    detail: str = ""


class JobProgress(BaseModel):
    """The event ``progress``, which is sent at most once per second."""

    items: int
    succeeded: int
    failed: int
    waiting: int
    in_flight: int
    images_per_s: float
    eta_s: float | None


class Retry(Spec):
    """The items to try again: all that failed, or those that failed with one of these codes."""

    items: Literal["failed"] | list[Annotated[str, Field(max_length=64)]] = "failed"


@dataclass(frozen=True)
class FileInfo:
    """A file of a job's results."""

    size_bytes: int
    sha256: str
