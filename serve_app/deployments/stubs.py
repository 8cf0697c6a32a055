"""The methods that each deployment offers to other processes, as one Protocol for each deployment.

Callers name a method through the stub, as in ``await replicas.call(DetectorStub.capacity)``, so the type checker finds
a misspelt method or a wrong argument. The replicas answer exactly the methods of the stub: see ``serves`` and
``listen`` in ``handles``.
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

SUPERVISOR_MAX_CALLS = 1024  # calls in flight; most come from clients that follow a stream, with one call each


class PreprocessorStub(Protocol):
    """The methods of the Preprocessor, which the Ingress calls."""

    async def detect(self, request: PictureRequest) -> Answer:
        """Return the detections in one encoded image, in its pixels. Raise ServeAppError if the image is refused."""

    async def state(self, model: str) -> DetectorState:
        """Ask a Detector replica of this model for its state. Raise Unavailable if none answers."""


class DetectorStub(Protocol):
    """The methods of the Detector, which Preprocessors, StreamWorkers and the StreamSupervisor call."""

    async def detect(self, request: DetectRequest) -> DetectReply:
        """Return the detections in one model input, in its pixels. Raise ServeAppError if the input is refused."""

    async def state(self) -> DetectorState:
        """Return the model that is loaded, warm and served, and the progress of a roll-out."""

    async def capacity(self) -> float:
        """Return the measured capacity of this replica, in images per second."""


SupervisorStub = Streams  # the Ingress calls the StreamSupervisor, on behalf of the HTTP API
WorkerStub = WorkerCalls  # the StreamSupervisor calls StreamWorkers
