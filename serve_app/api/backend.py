"""The ``Protocol`` classes through which the HTTP interface reaches the rest of the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ServeAppError
from serve_app.schemas.drift import DriftHistograms, NewReference, ReferenceFile, SourceDrift
from serve_app.schemas.jobs import FileInfo, Format, JobItems, JobList, JobSpec, JobState, JobStatus, Retry
from serve_app.schemas.models import ModelStatus
from serve_app.schemas.recording import FilePiece, RecordingList
from serve_app.schemas.streams import Regions, SourceSpec, State, StreamSpec, StreamStatus
from serve_app.telemetry.overview import ServiceFigures
from serve_app.types import (
    Answer,
    DetectorState,
    DetectParams,
    EventPage,
    ModelInfo,
    PictureRequest,
    Principal,
    Snapshot,
)


@dataclass(frozen=True)
class VideoRequest:
    """One short video for the Preprocessor, which answers every ``stride``-th frame."""

    data: bytes
    params: DetectParams
    time_left_s: float  # a duration, because the clocks of two nodes differ
    stride: int = 1
    tenant: str = ""


class Backend(Protocol):
    """The interface to the model graph, which takes an encoded image and returns the detections."""

    async def ready(self) -> DetectorState:
        """Ask a warm replica for the state of the default model, and return it.

        Raise Unavailable or Overloaded if no replica responds.
        """

    async def models(self) -> list[ModelStatus]:
        """Return every model that a request may name, with the default model first.

        Raise Unavailable if the models cannot be listed.
        """

    async def figures(self) -> ServiceFigures:
        """Return the figures of all replicas that answer. Replicas that do not answer in time are left out."""

    def dashboard_url(self) -> str | None:
        """Return the address of Ray's dashboard, or None if no dashboard runs."""

    async def source_frame(self, source: SourceSpec) -> bytes:
        """Return a frame of a source as a JPEG.

        Raise SourceError if the source is not allowed, cannot be read, or sends no frame within 10 s. Raise Overloaded,
        which names ``source_frames``, if too many sources are being read.
        """

    def admit(self, tenant: str, model: str) -> None:
        """Check for capacity before a request's images are read. Raise Overloaded if the graph is full."""

    async def detect(self, request: PictureRequest) -> Answer:
        """Return the answer for one image. Raise ServeAppError if the image cannot be processed.

        The batcher shares the engine fairly between tenants.
        """

    async def describe(self, model: str) -> ModelInfo:
        """Ask one of the model's Detectors which model it serves, and return it.

        Raise Unavailable if none answers, and InvalidParameter if the model's task does not allow ``infer``.
        """

    async def infer(
        self, model: str, planes: NDArray[np.floating], *, tenant: str, time_left_s: float
    ) -> tuple[NDArray[np.float32], str]:
        """Return the tensor of a model for one model input, and the version of the model's weights.

        The tensor is described in ``models.tasks.tensors``. ``planes``: red, green and blue from 0 to 1,
        ``(3, height, width)``. Raise InvalidParameter if the model does not take this shape or these numbers, and
        ServeAppError if the input cannot be processed.
        """

    async def detect_video(self, request: VideoRequest) -> list[Answer]:
        """Return the answers for the frames of a short video.

        Raise SourceError if it is not a video, and TooLarge, which names ``video_frames``, if it has too many frames.
        """


class Metrics(Protocol):
    """The interface to the counters of HTTP requests: see ``telemetry.metrics.Telemetry``."""

    def refused(self, error: ServeAppError) -> None:
        """Count an image or a request whose response is an error."""

    def requested(self, key: str, outcome: str) -> None:
        """Count a request whose API key has the name ``key``.

        ``outcome`` is ``admitted`` or the error code of the refusal.
        """

    def keys_reload_failed(self) -> None:
        """Count a failed reload of the API-key file."""


class Streams(Protocol):
    """The interface to the streams.

    Every method raises Unavailable while the supervisor does not respond. A method with the id of a stream raises
    NotFound if no stream has this id, or if ``who`` may not see it, with the same words.
    """

    async def create(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        """Start a stream that belongs to ``who``.

        Raise Conflict if the id is taken, even by a stream that ``who`` may not see. Raise SourceError,
        InvalidParameter or Overloaded if the stream is refused.
        """

    async def all(self, who: Principal) -> list[StreamStatus]:
        """Return the status of every stream that ``who`` may see, sorted by id."""

    async def states(self, who: Principal) -> dict[str, State]:
        """Return the state of every stream that ``who`` may see, by id, as it was at most a few seconds ago.

        This costs far less than ``all``, which asks each stream's process.
        """

    async def status(self, stream_id: str, who: Principal) -> StreamStatus:
        """Return the status of one stream."""

    async def replace(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        """Replace the stream that has the id of ``spec``. The new stream has the same owner.

        Raise the errors of ``create`` if the new stream is refused. The old stream then keeps running.
        """

    async def delete(self, stream_id: str, who: Principal) -> None:
        """Stop the stream and remove it."""

    async def pause(self, stream_id: str, who: Principal) -> StreamStatus:
        """Close the stream's source until ``resume`` is called. A paused stream stays paused."""

    async def resume(self, stream_id: str, who: Principal) -> StreamStatus:
        """Open the stream's source again. A running stream keeps running."""

    async def regions(self, stream_id: str, who: Principal) -> Regions:
        """Return the zones and lines for which the stream counts objects."""

    async def set_regions(self, stream_id: str, who: Principal, regions: Regions) -> StreamStatus:
        """Replace the zones and lines for which the stream counts objects."""

    async def set_owner(self, stream_id: str, who: Principal, owner: str) -> StreamStatus:
        """Give a stream without an owner an owner.

        Raise Forbidden unless ``who`` is an administrator, and Conflict if the stream has another owner.
        """

    async def events(self, stream_id: str, who: Principal, after: int | None, within_s: float) -> EventPage:
        """Return the events whose id is above ``after``. If there are none, wait up to ``within_s`` seconds for one.

        Return an empty page if no such event happens in that time. With ``after=None``, return only events that happen
        after the call.
        """

    async def snapshot(
        self,
        stream_id: str,
        who: Principal,
        after: int | None,
        within_s: float,
        *,
        boxes: bool,
        max_side_px: int | None = None,
    ) -> Snapshot | None:
        """Return the newest processed frame if its id is above ``after``.

        Otherwise, wait up to ``within_s`` seconds for such a frame. Return None if no such frame is processed
        in that time. If a side of the frame is longer than ``max_side_px``, the frame is scaled down.
        """

    async def recordings(self, stream_id: str, who: Principal, before: str | None, limit: int) -> RecordingList:
        """Return the stream's recordings whose names are below ``before``, the newest first."""

    async def read_recording(self, stream_id: str, who: Principal, file_name: str, offset: int, size: int) -> FilePiece:
        """Return at most ``size`` bytes of a clip or a snapshot. Raise NotFound if there is no such file."""


class Jobs(Protocol):
    """The interface to the batch jobs.

    Every method raises Unavailable while the supervisor does not respond. A method with a ``job_id`` raises NotFound if
    no job has this id, or if ``who`` may not see it, with the same words.
    """

    async def create(self, spec: JobSpec, who: Principal) -> JobStatus:
        """Add a job. When this returns, the job is on the disk.

        Raise Conflict if the id is taken, even by a job that ``who`` may not see. Raise SourceError, InvalidParameter,
        UrlsDisabled, TooLarge, NoSpace or Overloaded if the job is refused.
        """

    async def put(self, spec: JobSpec, who: Principal) -> tuple[JobStatus, bool]:
        """Add a job unless the same job is there already. Return its status, and whether it is new.

        Raise Conflict if another job has this id, and the errors of ``create``.
        """

    async def all(
        self, who: Principal, *, state: JobState | None, tag: str | None, after: str | None, limit: int
    ) -> JobList:
        """Return the status of the newest jobs that ``who`` may see."""

    async def status(self, job_id: str, who: Principal) -> JobStatus:
        """Return the status of one job."""

    async def items(self, job_id: str, who: Principal, *, state: str | None, after: int | None, limit: int) -> JobItems:
        """Return a page of the items that are done. Raise Expired if they are no longer kept."""

    async def cancel(self, job_id: str, who: Principal) -> JobStatus:
        """End a job before its items are done. What is stored stays readable. A job at rest stays as it is."""

    async def pause(self, job_id: str, who: Principal) -> JobStatus:
        """Start no new work of a job until ``resume`` is called. Raise Conflict if the job ends or has ended."""

    async def resume(self, job_id: str, who: Principal) -> JobStatus:
        """Continue a paused job. Raise Conflict as ``pause`` does."""

    async def retry(self, job_id: str, who: Principal, retry: Retry) -> JobStatus:
        """Try failed items again. If the job was cancelled or has failed, also continue with the rest.

        Raise Conflict unless the job is running or at rest, and Expired as ``items`` does.
        """

    async def delete(self, job_id: str, who: Principal) -> None:
        """Stop a job, and forget it with all its files."""

    async def set_owner(self, job_id: str, who: Principal, owner: str) -> JobStatus:
        """Give a job without an owner an owner. Raise Forbidden unless ``who`` is an administrator, and Conflict if
        the job has an owner.
        """

    async def results(self, job_id: str, who: Principal, kind: Format) -> FileInfo:
        """Make the file of a finished job's results in a format if it does not exist, and return its size and hash.

        Raise NotFinished if the job has not ended, Expired as ``items`` does, and InvalidParameter without a library.
        """

    async def read_results(self, job_id: str, who: Principal, kind: Format, offset: int, size: int) -> bytes:
        """Return a piece of the file of ``results``."""

    async def put_file(self, job_id: str, who: Principal, name: str, offset: int, data: bytes, *, last: bool) -> None:
        """Add a piece to an uploaded file of a job in the state ``collecting``. The file exists when it is whole.

        Raise Conflict if the job is in another state, InvalidParameter for a bad name, and NoSpace, which names
        ``jobs.max_disk_gib``.
        """

    async def start(self, job_id: str, who: Principal) -> JobStatus:
        """Start a job whose files are uploaded. Raise Conflict if it has started."""

    async def picture(self, job_id: str, who: Principal, item: int, *, boxes: bool) -> bytes:
        """Return the source's image of an item as a JPEG, with its boxes drawn if ``boxes`` is true.

        Raise NotFound if there is no such item, and the errors of reading it.
        """

    async def events(self, job_id: str, who: Principal, after: int | None, within_s: float) -> EventPage:
        """Return the events whose id is above ``after``: see ``Streams.events``."""


class Drift(Protocol):
    """The interface to the drift of all sources. Every method raises Unavailable while the monitor does not respond.

    The methods with a source raise NotFound if no image of the source was seen with the model.
    """

    async def sources(self) -> list[SourceDrift]:
        """Return the drift of every source with every model, sorted by model and source."""

    async def histograms(self, model: str, source: str) -> DriftHistograms:
        """Return the histograms behind the figures of a source, or of the source ``all``."""

    async def reference(self, model: str, source: str) -> ReferenceFile:
        """Return the reference of a source."""

    async def set_reference(self, new: NewReference) -> SourceDrift:
        """Replace the reference of a source. When this returns, it is on the disk.

        Raise InvalidParameter if there are too few images, and NoSpace if it cannot be stored.
        """
