"""What the HTTP interface needs of what lies behind it: three ports."""

from __future__ import annotations

from typing import Protocol

from serve_app.errors import ServeAppError
from serve_app.schemas.detect import DetectQuery
from serve_app.schemas.models import ModelStatus
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.types import Answer, EventPage, ModelInfo, Snapshot


class Backend(Protocol):
    """The graph: encoded picture in, answer out."""

    async def ready(self) -> ModelInfo:
        """Return the model that serves now, asked of a warm replica. Raises Unavailable."""

    async def models(self) -> list[ModelStatus]:
        """Return every model that a request may name, the default one first. Raises Unavailable."""

    def admit(self, tenant: str, model: str) -> None:
        """Refuse a request before its pictures are read where the graph is full. Raises Overloaded."""

    async def detect(
        self, data: bytes, query: DetectQuery, *, annotate: bool, time_left_s: float, tenant: str
    ) -> Answer:
        """Return one picture's answer; the batcher is fair to each tenant. Raises ServeAppError."""


class Metrics(Protocol):
    """What the HTTP interface counts: see ``telemetry.metrics.Telemetry``."""

    def refused(self, error: ServeAppError) -> None:
        """Count a picture or a request whose answer is an error."""

    def requested(self, key: str, outcome: str) -> None:
        """Count a request with a key of this name: ``admitted``, or the code of the error that refused it."""

    def keys_unreadable(self) -> None:
        """Count a reload of the keys' file that failed."""


class Streams(Protocol):
    """The streams behind the graph. Whoever is asked raises Unavailable while nobody answers there, and NotFound for an
    id that no stream has."""

    async def create(self, spec: StreamSpec) -> StreamStatus:
        """A new stream. Raises Conflict, SourceError, InvalidParameter, Overloaded."""

    async def all(self) -> list[StreamStatus]:
        """Every stream, sorted by id."""

    async def status(self, stream_id: str) -> StreamStatus:
        """One stream."""

    async def replace(self, spec: StreamSpec) -> StreamStatus:
        """A stream in the place of the one of this id, which goes on if this one cannot be. Raises as ``create``."""

    async def delete(self, stream_id: str) -> None:
        """End it for good."""

    async def pause(self, stream_id: str) -> StreamStatus:
        """Close its source until ``resume``. A stream that is paused already stays so."""

    async def resume(self, stream_id: str) -> StreamStatus:
        """Go on. A stream that is not paused does so anyway."""

    async def regions(self, stream_id: str) -> Regions:
        """What is counted."""

    async def set_regions(self, stream_id: str, regions: Regions) -> StreamStatus:
        """Count these from now on."""

    async def events(self, stream_id: str, after: int | None, within_s: float) -> EventPage:
        """Events with an id above ``after`` (None: those to come), as soon as there is one; an empty page when the
        time is up."""

    async def snapshot(self, stream_id: str, after: int | None, within_s: float, *, boxes: bool) -> Snapshot | None:
        """The newest frame that was processed and has an id above ``after``, as soon as there is one; None when the
        time is up."""
