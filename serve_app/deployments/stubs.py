"""What each deployment answers to other processes: one Protocol each, where there is none already.

A stub is a deployment's typed name. Its callers name a method by it, ``await replicas.call(DetectorStub.capacity)``, so
that a misspelt method or a wrong argument does not pass the type check. Its replicas answer exactly its methods: see
``serves`` and ``listen`` in ``handles``.
"""

from __future__ import annotations

from typing import Protocol

from serve_app.api.backend import Streams
from serve_app.streams.workers import WorkerCalls
from serve_app.types import (
    Answer,
    DetectorState,
    DetectReply,
    DetectRequest,
    PictureRequest,
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


SupervisorStub = Streams  # the Ingress calls the StreamSupervisor for what the HTTP interface asks of it
WorkerStub = WorkerCalls  # the StreamSupervisor calls a StreamWorker for what the supervision asks of it
