"""The queue of images for the Detectors of one model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_app.deployments.detector_client import DetectorClient
from serve_app.errors import ModelChanged
from serve_app.overload.limits import AdmissionLimit

_RETRY_INTERVAL_S = 0.05
T = TypeVar("T")


class ModelQueue:
    """The Detectors of one model, and the queue of images for them. Other models' images wait in their own queues."""

    def __init__(self, detector: DetectorClient, slots: int) -> None:
        """Process up to ``slots`` images at once, which is the number of the slots of ``detector``."""
        self.detector = detector
        self._admission_limit = AdmissionLimit(slots)
        self._slots = asyncio.Semaphore(slots)

    async def run(self, work: Callable[[], Awaitable[T]], *, tenant: str, expires_at_s: float) -> tuple[T, float]:
        """Wait for a slot, and process an image with ``work``, again if the model was changed meanwhile.

        Return the result, and how many seconds the image has waited. Raise Overloaded when it would wait too long.
        """
        entered_at_s = time.monotonic()
        with self._admission_limit.enter(tenant):
            async with self._slots:
                waited_s = time.monotonic() - entered_at_s
                while True:
                    try:
                        return await work(), waited_s
                    except ModelChanged:  # during a roll-out; retry with the new model
                        if time.monotonic() + _RETRY_INTERVAL_S > expires_at_s:
                            raise
                        await asyncio.sleep(_RETRY_INTERVAL_S)
