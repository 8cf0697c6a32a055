"""Whether one more stream may run: its settings are valid, there is room for it, and the detectors can keep up."""

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
from serve_app.streams.capture.source import Source, parse_source
from serve_app.streams.capture.timestamps import USUAL_FPS
from serve_app.streams.outputs.checks import check_outputs
from serve_app.types import ModelInfo

_CAPACITY_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class StreamDemand:
    """What a stream asks of the detectors."""

    spec: StreamSpec
    policy: Policy
    source_fps: float | None  # as the source says itself, once it was opened

    @property
    def fps(self) -> float:
        """Frames per second that lose their value when they wait: 0 for a stream that waits for the detectors."""
        if self.policy == "wait":
            return 0.0
        return min(self.source_fps or USUAL_FPS, self.spec.max_fps or float("inf"))


def check_room(count: int, max_streams: int) -> None:
    """Raise Overloaded where there are ``max_streams`` streams already. Paused and waiting streams count, too."""
    if count >= max_streams:
        raise Overloaded(
            f"streams.max_streams: there are {count} streams, and no more than {max_streams} may be; delete one or "
            "raise it",
            limit="streams.max_streams",
        )


def admit(new: StreamDemand, others: Iterable[StreamDemand], capacity_fps: float) -> None:
    """Raise Overloaded for a stream that would make the detectors drop frames, its own or those of others."""
    taken_fps = sum(demand.fps for demand in others)
    if new.spec.degrade or not new.fps or taken_fps + new.fps <= capacity_fps:
        return
    raise Overloaded(
        f"detector_capacity: the detectors take {capacity_fps:.0f} frames a second; the streams that there are send "
        f"{taken_fps:.0f}, and this one would add {new.fps:.0f}: give it a lower max_fps, say degrade to have frames "
        "dropped, or add Detector replicas",
        limit="detector_capacity",
    )


def check_tracking(spec: StreamSpec) -> None:
    """Raise InvalidParameter where the stream needs tracking, and the library for it is not installed."""
    if spec.is_tracked and importlib.util.find_spec("trackers") is None:
        raise InvalidParameter("tracking is an extra: pip install 'sightline[tracking]'")


class Detectors(Protocol):
    """The detectors of each model, as admission needs them. What asks a detector raises Unavailable."""

    def has_model(self, name: str) -> bool:
        """Return whether a model of this name is deployed."""

    async def model(self, name: str) -> ModelInfo:
        """Return what the detectors of a model serve now."""

    async def capacity_fps(self, name: str) -> float:
        """Return how many frames per second one detector of a model takes."""

    async def most_replicas(self, name: str) -> int:
        """Return how many detectors of a model there are, or how many autoscaling may start."""


class Admission:
    """Checks streams against the settings and the detectors."""

    def __init__(self, detectors: Detectors, args: StreamArgs, guard: AddressGuard) -> None:
        self._detectors = detectors
        self._args = args
        self._guard = guard

    def source(self, spec: StreamSpec) -> Source:
        """Return where the stream's frames come from. Raises SourceError where that is not allowed."""
        return parse_source(spec.source.uri, self._args.folders(), tls_verify=spec.source.tls_verify)

    def check_model(self, spec: StreamSpec) -> None:
        """Raise InvalidParameter where the stream's model is not deployed."""
        if not self._detectors.has_model(spec.detect.model):
            raise InvalidParameter(f"detect.model: there is no {spec.detect.model!r}: see GET /models")

    async def check(self, spec: StreamSpec) -> float | None:
        """Check a stream's settings, as far as that can be done before it runs.

        Returns how many frames per second all detectors of its model take, or None where they do not say so within 2 s.
        Raises InvalidParameter, StartError.
        """
        self.check_model(spec)
        check_outputs(spec, self._args.output_folder(), self._guard)
        check_tracking(spec)
        name = spec.detect.model
        try:
            async with asyncio.timeout(_CAPACITY_TIMEOUT_S):
                model = await self._detectors.model(name)
                most = await self._detectors.most_replicas(name)
                capacity_fps = await self._detectors.capacity_fps(name) * most
        except (TimeoutError, Unavailable):
            return None
        spec.detect.to_params().to_options(model)
        return capacity_fps
