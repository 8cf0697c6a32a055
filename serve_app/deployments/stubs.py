"""The stubs, which are Protocols of the methods that a deployment offers to other processes.

A caller names a method of a stub, as in ``await replicas.call(DetectorStub.capacity)``. The type checker therefore
finds a misspelt method or a wrong argument. A replica answers only calls of its stub's methods: see ``serves`` and
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

SUPERVISOR_MAX_CALLS = 1024  # the limit of calls in flight; each client that follows a stream needs one call


class PreprocessorStub(Protocol):
    """The Preprocessor's methods, which the Ingress calls."""

    async def detect(self, request: PictureRequest) -> Answer:
        """Return the detections in an encoded image, in pixels of that image.

        Raise ServeAppError if the image is refused.
        """

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

    async def capacity(self) -> float:
        """Return the measured capacity of this replica, in images per second."""


SupervisorStub = Streams  # the Ingress calls the StreamSupervisor for the HTTP API
WorkerStub = WorkerCalls  # the StreamSupervisor calls StreamWorkers
