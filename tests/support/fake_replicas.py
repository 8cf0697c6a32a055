"""Fake Serve handles for tests without Ray."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from serve_app.deployments import handles
from serve_app.deployments.detector_client import DetectorClient
from serve_app.detections import Detections
from serve_app.drift.notices import Notice
from serve_app.drift.tally import Report
from serve_app.errors import ServeAppError
from serve_app.images.fitting import place
from serve_app.types import (
    Answer,
    DetectOptions,
    DetectorState,
    DetectReply,
    DetectRequest,
    EngineInfo,
    InputShape,
    ModelInfo,
    Timing,
)

OPTIONS = DetectOptions(confidence=0.5, iou=0.7, max_detections=300)
REPLY = DetectReply(
    Detections(np.array([[32, 32, 64, 64]], np.float32), np.array([0.9], np.float32), np.array([0], np.int32)),
    Timing(),
    batch_size=1,
)


def model_info(*labels: str, version: str = "v1", side_px: int = 64) -> ModelInfo:
    """Return the ``ModelInfo`` of a model with these labels and a square input."""
    engine = EngineInfo("fake", version, "fake", labels, InputShape.square(side_px), end_to_end=False)
    return ModelInfo(engine, version, OPTIONS)


class FakeHandle:
    """A fake handle of a Detector.

    ``answer`` is a function that returns the reply to a request, or an error. If ``answer`` returns a
    ServeAppError, the handle returns the error to the caller. The handle raises any other error.
    """

    app_name, deployment_name = "sightline", "Detector"

    def __init__(self, answer: Callable[[DetectRequest], Any] = lambda request: REPLY) -> None:
        self.answer = answer
        self.info = model_info("dog")
        self.requests: list[DetectRequest] = []
        self.state = SimpleNamespace(remote=self._state)
        self.detect = SimpleNamespace(remote=self._detect)
        self.reports: list[Report] = []  # as a DriftMonitor
        self.report = SimpleNamespace(remote=self._report)

    def _init(self, **options: Any) -> None:
        pass

    async def _report(self, report: Report) -> list[Notice]:
        self.reports.append(report)
        return []

    async def _state(self) -> DetectorState:
        return DetectorState(self.info)

    async def _detect(self, request: DetectRequest) -> DetectReply | ServeAppError:
        self.requests.append(request)
        result = self.answer(request)
        if isinstance(result, Exception) and not isinstance(result, ServeAppError):
            raise result
        reply: DetectReply | ServeAppError = result
        return reply


async def ask(client: DetectorClient, pixels: np.ndarray) -> Answer:
    """Send one image as a Preprocessor does, and return the answer."""
    model = await client.model(1)
    with client.pool.lease() as slot:
        fitted = place(pixels, model.shapes, slot.frame, model.fitting)
        return await client.detect(slot, fitted, model, OPTIONS, time_left_s=10)


async def no_listening(replica: object, stub: type[Any], *, max_calls: int, limit: str = "") -> None:
    """Replace ``handles.listen``, which a test without other processes does not need."""


def no_local_service(*_: str) -> str:
    """Replace ``handles.service_name``, so that no replica is found on this node and calls go through the handle."""
    return "none"


NOWHERE = (handles, "service_name", no_local_service)  # for ``monkeypatch.setattr``
