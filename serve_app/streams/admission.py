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
from serve_app.schemas.detect import InputSize
from serve_app.schemas.streams import Policy, StreamSpec
from serve_app.streams.outputs.checks import check_outputs
from serve_app.types import InputShape, ModelInfo
from serve_app.video.source import Source, parse_source
from serve_app.video.timestamps import USUAL_FPS

_CAPACITY_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class StreamDemand:
    """The load that a stream puts on the detectors."""

    spec: StreamSpec
    policy: Policy
    source_fps: float | None  # the frame rate that the source declares; None if it is not known
    input: InputSize | None = None  # the model input of the latest frame; None if there was no frame yet

    @property
    def fps(self) -> float:
        """The frames per second that the detectors must keep up with.

        This is 0 for a stream with the policy ``wait``, because such a stream slows down instead of dropping frames.
        """
        if self.policy == "wait":
            return 0.0
        return min(self.source_fps or USUAL_FPS, self.spec.max_fps or float("inf"))

    def in_largest_inputs(self, largest: InputShape) -> float:
        """Return how many of the model's largest inputs per second would need as much time.

        The time is proportional to the pixels of an input. A stream without a frame counts as if it had the largest
        inputs, because the size of its frames is not known.
        """
        if self.input is None:
            return self.fps
        return self.fps * min(1.0, self.input.width * self.input.height / (largest.width_px * largest.height_px))


@dataclass(frozen=True)
class Capacity:
    """What all detectors of a model can process together."""

    fps: float  # frames per second that have the largest input
    largest: InputShape


def check_stream_count(count: int, max_streams: int) -> None:
    """Raise Overloaded if ``max_streams`` or more streams exist. Paused streams count, too."""
    if count >= max_streams:
        raise Overloaded(
            f"streams.max_streams: {count} streams exist and {max_streams} are allowed; delete a stream or raise the "
            "limit",
            limit="streams.max_streams",
        )


def admit(new: StreamDemand, others: Iterable[StreamDemand], capacity: Capacity) -> None:
    """Raise Overloaded if the detectors cannot process the new stream in addition to the others.

    A stream that sets ``degrade`` or has the policy ``wait`` is always admitted.
    """
    used_fps = sum(demand.in_largest_inputs(capacity.largest) for demand in others)
    new_fps = new.in_largest_inputs(capacity.largest)
    if new.spec.degrade or not new_fps or used_fps + new_fps <= capacity.fps:
        return
    raise Overloaded(
        f"detector_capacity: the detectors process {capacity.fps:.0f} frames of the largest input shape per second; "
        f"the running streams take as much time as {used_fps:.0f} of them, and this one would add {new_fps:.0f}; "
        "lower max_fps, set degrade to allow dropped frames, or add Detector replicas",
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
        """Return how many frames of the largest shape one detector of a model can process per second."""

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

    async def check(self, spec: StreamSpec) -> Capacity | None:
        """Check the settings of a stream before it starts.

        Return the capacity of the detectors of the stream's model, or None if the detectors do not answer within 2 s.
        Raise InvalidParameter if a setting is not valid, and StartError if a sink's library is not installed.
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
        return Capacity(capacity_fps, model.input_shape)
