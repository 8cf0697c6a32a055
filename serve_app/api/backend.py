"""What the HTTP interface needs of what lies behind it: three ports."""

from __future__ import annotations

from typing import Protocol

from serve_app.errors import ServeAppError
from serve_app.schemas.models import ModelStatus
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.types import Answer, DetectorState, EventPage, PictureRequest, Snapshot


class Backend(Protocol):
    """The graph: encoded picture in, answer out."""

    async def ready(self) -> DetectorState:
        """Return what serves now, asked of a warm replica. Raises Unavailable."""

    async def models(self) -> list[ModelStatus]:
        """Return every model that a request may name, the default one first. Raises Unavailable."""

    def admit(self, tenant: str, model: str) -> None:
        """Refuse a request before its pictures are read where the graph is full. Raises Overloaded."""

    async def detect(self, request: PictureRequest) -> Answer:
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
    """The streams. Every method raises Unavailable while the supervisor does not answer, and NotFound for an id that no
    stream has."""

    async def create(self, spec: StreamSpec) -> StreamStatus:
        """Start a stream. Raises Conflict, SourceError, InvalidParameter, Overloaded."""

    async def all(self) -> list[StreamStatus]:
        """Return the status of every stream, sorted by id."""

    async def status(self, stream_id: str) -> StreamStatus:
        """Return one stream's status."""

    async def replace(self, spec: StreamSpec) -> StreamStatus:
        """Start this stream instead of the one of its id, which keeps running on a refusal. Raises as ``create``."""

    async def delete(self, stream_id: str) -> None:
        """Stop the stream and forget it."""

    async def pause(self, stream_id: str) -> StreamStatus:
        """Close the stream's source until ``resume``. A stream that is paused already stays so."""

    async def resume(self, stream_id: str) -> StreamStatus:
        """Open the source again. A stream that is running already keeps running."""

    async def regions(self, stream_id: str) -> Regions:
        """Return the zones and lines in which objects are counted."""

    async def set_regions(self, stream_id: str, regions: Regions) -> StreamStatus:
        """Count in these zones and lines from now on."""

    async def events(self, stream_id: str, after: int | None, within_s: float) -> EventPage:
        """Return the events with an id above ``after`` (None: those to come) as soon as there is one, or an empty page
        after ``within_s``."""

    async def snapshot(self, stream_id: str, after: int | None, within_s: float, *, boxes: bool) -> Snapshot | None:
        """Return the newest processed frame with an id above ``after`` as soon as there is one, or None after
        ``within_s``."""
