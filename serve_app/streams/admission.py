"""Checks that run before a stream starts: its settings, the number of streams, and the capacity of the detectors."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from serve_app.config import StreamArgs
from serve_app.errors import InvalidParameter, Overloaded, Unavailable
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import Policy, StreamSpec
from serve_app.streams.outputs.checks import check_outputs
from serve_app.types import ModelInfo
from serve_app.video.source import Source, parse_source
from serve_app.video.timestamps import USUAL_FPS

_CAPACITY_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class StreamDemand:
    """The load that a stream puts on the detectors."""

    spec: StreamSpec
    policy: Policy
    source_fps: float | None  # the frame rate that the source declares; None if it is not known

    @property
    def fps(self) -> float:
        """The frames per second that the detectors must keep up with.

        This is 0 for a stream with the policy ``wait``, because such a stream slows down instead of dropping frames.
        """
        if self.policy == "wait":
            return 0.0
        return min(self.source_fps or USUAL_FPS, self.spec.max_fps or float("inf"))


def check_stream_count(count: int, max_streams: int) -> None:
    """Raise Overloaded if ``max_streams`` or more streams exist. Paused streams count, too."""
    if count >= max_streams:
        raise Overloaded(
            f"streams.max_streams: {count} streams exist and {max_streams} are allowed; delete a stream or raise the "
            "limit",
            limit="streams.max_streams",
        )


def admit(new: StreamDemand, others: Iterable[StreamDemand], capacity_fps: float) -> None:
    """Raise Overloaded if the detectors cannot process the new stream in addition to the others.

    A stream that sets ``degrade`` or has the policy ``wait`` is always admitted.
    """
    used_fps = sum(demand.fps for demand in others)
    if new.spec.degrade or not new.fps or used_fps + new.fps <= capacity_fps:
        return
    raise Overloaded(
        f"detector_capacity: the detectors process {capacity_fps:.0f} frames per second; the running streams send "
        f"{used_fps:.0f}, and this one would add {new.fps:.0f}; lower max_fps, set degrade to allow dropped frames, "
        "or add Detector replicas",
        limit="detector_capacity",
    )


def check_tracking(spec: StreamSpec) -> None:
    """Raise InvalidParameter if the stream needs tracking and the tracking library is not installed."""
    if spec.is_tracked and importlib.util.find_spec("trackers") is None:
        raise InvalidParameter("tracking is not installed; run: pip install 'sightline[tracking]'")


class Detectors(Protocol):
    """The detectors of each model. The asynchronous methods raise Unavailable if no detector answers."""

    def has_model(self, name: str) -> bool:
        """Return whether a model of this name is deployed."""

    async def model(self, name: str) -> ModelInfo:
        """Return the description of the model version that the detectors currently serve."""

    async def capacity_fps(self, name: str) -> float:
        """Return how many frames per second one detector of a model can process."""

    async def max_replica_count(self, name: str) -> int:
        """Return the number of detectors of a model. With autoscaling, return the upper limit."""


class Admission:
    """Checks streams against the settings and the detectors."""

    def __init__(self, detectors: Detectors, args: StreamArgs, guard: AddressGuard) -> None:
        self._detectors = detectors
        self._args = args
        self._guard = guard

    def source(self, spec: StreamSpec) -> Source:
        """Return the stream's source. Raise SourceError if the source is not valid or not allowed."""
        return parse_source(spec.source.uri, self._args.folders(), tls_verify=spec.source.tls_verify)

    def check_model(self, spec: StreamSpec) -> None:
        """Raise InvalidParameter if the stream's model is not deployed."""
        if not self._detectors.has_model(spec.detect.model):
            raise InvalidParameter(
                f"detect.model: model {spec.detect.model!r} is not currently deployed; see GET /models"
            )

    async def check(self, spec: StreamSpec) -> float | None:
        """Check the settings of a stream before it starts.

        Return the total number of frames per second that the detectors of the stream's model can process, or None if
        the detectors do not answer within 2 s. Raise InvalidParameter if a setting is not valid, and StartError if a
        sink's library is not installed.
        """
        self.check_model(spec)
        check_outputs(spec, self._args.output_folder(), self._guard)
        check_tracking(spec)
        name = spec.detect.model
        try:
            async with asyncio.timeout(_CAPACITY_TIMEOUT_S):
                model = await self._detectors.model(name)
                replicas = await self._detectors.max_replica_count(name)
                capacity_fps = await self._detectors.capacity_fps(name) * replicas
        except (TimeoutError, Unavailable):
            return None
        spec.detect.to_params().to_options(model)
        return capacity_fps
