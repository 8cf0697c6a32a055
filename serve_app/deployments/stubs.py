"""What each deployment answers to other processes: one Protocol each.

A stub is a deployment's typed name. Its callers name a method by it, ``await replicas.call(DetectorStub.capacity)``, so
that a misspelt method or a wrong argument does not pass the type check. Its replicas answer exactly its methods: see
``serves`` and ``listen`` in ``handles``.
"""

from __future__ import annotations

from typing import Protocol

from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.types import (
    Answer,
    DetectorState,
    DetectReply,
    DetectRequest,
    EventPage,
    PictureRequest,
    Snapshot,
)

SUPERVISOR_MAX_CALLS = 1024  # in flight; most are of clients that follow a stream, one call each


class PreprocessorStub(Protocol):
    """The Preprocessor, as the Ingress calls it."""

    async def detect(self, request: PictureRequest) -> Answer:
        """Return the answer to one encoded picture, in its own pixels. Raises ServeAppError."""

    async def state(self, model: str) -> DetectorState:
        """Return what the Detector of this model serves, asked of one of its replicas. Raises Unavailable."""


class DetectorStub(Protocol):
    """The Detector, as Preprocessors, StreamWorkers and the StreamSupervisor call it."""

    async def detect(self, request: DetectRequest) -> DetectReply:
        """Return what the model finds in one model input, in model-input pixels. Raises ServeAppError."""

    async def state(self) -> DetectorState:
        """Return the model that is served, which is loaded and warm, and how far a roll-out is."""

    async def capacity(self) -> float:
        """Return the pictures a second that this replica can take, as it was measured."""


class SupervisorStub(Protocol):
    """The StreamSupervisor, as the Ingress calls it: see ``api.backend.Streams``."""

    async def create(self, spec: StreamSpec) -> StreamStatus: ...
    async def replace(self, spec: StreamSpec) -> StreamStatus: ...
    async def all(self) -> list[StreamStatus]: ...
    async def status(self, stream_id: str) -> StreamStatus: ...
    async def delete(self, stream_id: str) -> None: ...
    async def pause(self, stream_id: str) -> StreamStatus: ...
    async def resume(self, stream_id: str) -> StreamStatus: ...
    async def regions(self, stream_id: str) -> Regions: ...
    async def set_regions(self, stream_id: str, regions: Regions) -> StreamStatus: ...
    async def events(self, stream_id: str, after: int | None, within_s: float) -> EventPage: ...
    async def snapshot(self, stream_id: str, after: int | None, within_s: float, boxes: bool) -> Snapshot | None: ...


class WorkerStub(Protocol):
    """A StreamWorker, as the StreamSupervisor calls it: see ``streams.workers.Worker``."""

    async def ready(self) -> None: ...
    async def node(self) -> str: ...
    async def run(self) -> StreamStatus: ...
    async def status(self) -> StreamStatus: ...
    async def stop(self) -> StreamStatus: ...
    async def set_regions(self, regions: Regions) -> None: ...
    async def events(self, after: int | None, within_s: float) -> EventPage: ...
    async def snapshot(self, after: int | None, within_s: float, boxes: bool) -> Snapshot | None: ...
