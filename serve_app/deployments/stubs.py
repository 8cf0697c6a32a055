"""The stubs, which are Protocols of the methods that a deployment offers to other processes.

A caller names a method of a stub, as in ``await replicas.call(DetectorStub.capacity)``. The type checker therefore
finds a misspelt method or a wrong argument. A replica answers only calls of its stub's methods: see ``serves`` and
``listen`` in ``handles``.
"""

from __future__ import annotations

from typing import Any, Protocol

from serve_app.api.backend import Drift, Jobs, Streams, VideoRequest
from serve_app.drift.notices import Notice
from serve_app.drift.tally import Report
from serve_app.jobs.celery_tasks import FinishedTask, TaskKind
from serve_app.jobs.units import Unit, UnitResult
from serve_app.schemas.jobs import JobSpec
from serve_app.schemas.streams import SourceSpec
from serve_app.streams.workers import WorkerCalls
from serve_app.telemetry.figures import Figures
from serve_app.types import (
    Answer,
    DetectorState,
    DetectReply,
    DetectRequest,
    PictureRequest,
)

JOB_RUNNER_UNITS = 2  # units at once in a JobRunner: while one is detected, the next one's images are fetched
SUPERVISOR_MAX_CALLS = 1024  # the limit of calls in flight; each client that follows a stream needs one call


class IngressStub(Protocol):
    """The Ingress's methods, which the Ingress replicas call."""

    async def own_figures(self) -> Figures:
        """Return what the replica has counted."""


class PreprocessorStub(Protocol):
    """The Preprocessor's methods, which the Ingress calls."""

    async def detect(self, request: PictureRequest) -> Answer:
        """Return the detections in an encoded image, in pixels of that image.

        Raise ServeAppError if the image is refused.
        """

    async def detect_video(self, request: VideoRequest) -> list[Answer]:
        """Return the answers for the frames of a short video: see ``Backend.detect_video``."""

    async def figures(self) -> Figures:
        """Return what the replica has counted."""

    async def source_frame(self, source: SourceSpec) -> bytes:
        """Return a frame of a source: see ``Backend.source_frame``."""

    async def state(self, model: str) -> DetectorState:
        """Return the state of one of the model's Detector replicas. Raise Unavailable if no replica answers."""


class DetectorStub(Protocol):
    """The Detector's methods, which Preprocessors, StreamWorkers and the StreamSupervisor call."""

    async def detect(self, request: DetectRequest) -> DetectReply:
        """Return the detections in a model input, in pixels of that input.

        Raise ServeAppError if the input is refused.
        """

    async def state(self) -> DetectorState:
        """Return the model that the replica serves, and the progress of a roll-out."""

    async def figures(self) -> tuple[DetectorState, Figures]:
        """Return the state as ``state`` does, and what the replica has counted."""

    async def capacity(self) -> float:
        """Return the measured capacity of this replica, in images per second of the model's largest input shape."""


SupervisorStub = Streams  # the Ingress calls the StreamSupervisor for the HTTP API
WorkerStub = WorkerCalls  # the StreamSupervisor calls StreamWorkers


class TasksStub(Protocol):
    """The JobSupervisor's methods for tasks of a Celery queue, which the JobInlet calls."""

    async def take_task(self, task_id: str, kind: TaskKind, arguments: dict[str, Any]) -> None:
        """Store a task's job. When this returns, the job is on the disk. A task that is stored already is ignored.

        Raise ServeAppError if the job is refused.
        """

    async def cancel_task(self, job_id: str) -> str:
        """Cancel a job of the queue's owner, and return its status as JSON. Raise NotFound if there is no such job."""

    async def finished_tasks(self, within_s: float) -> list[FinishedTask]:
        """Wait up to ``within_s`` seconds for tasks whose jobs have ended, and return up to 100 of them."""

    async def forget_tasks(self, task_ids: list[str]) -> None:
        """Note that the results of these tasks are in the backend, so that ``finished_tasks`` omits them."""


class JobSupervisorStub(Jobs, TasksStub, Protocol):
    """The JobSupervisor's methods, which the Ingress calls for the HTTP API, and the JobInlet for tasks."""


class DriftMonitorStub(Drift, Protocol):
    """The DriftMonitor's methods, which the Ingress calls for the HTTP API, and other processes for their reports."""

    async def report(self, report: Report) -> list[Notice]:
        """Take a report into account once, even if it is sent again. Return the notices about its sources.

        When this returns, the report is on the disk, unless the disk is full.
        """

    async def forget(self, source: str) -> None:
        """Forget a source, because its stream was deleted. Another stream may get the same name."""

    async def drifting(self) -> frozenset[str]:
        """Return the names of the sources that drift now."""


class JobRunnerStub(Protocol):
    """The JobRunner's methods, which the JobSupervisor calls."""

    async def run(self, unit: Unit, spec: JobSpec, model_version: str | None) -> UnitResult:
        """Work on a unit, and return what has been done.

        With ``model_version``, raise ModelChanged if the Detectors serve another version of the model. Raise
        OutputUnwritable if annotated images or crops can never be written. Any other error of an item is in the result.
        """

    async def picture(self, unit: Unit, spec: JobSpec, item: int, result: str | None) -> bytes:
        """Return the image of an item as a JPEG. With ``result``, the JSON of its result, draw its boxes."""
