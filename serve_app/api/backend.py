"""The three ports through which the HTTP interface reaches the rest of the application."""

from __future__ import annotations

from typing import Protocol

from serve_app.errors import ServeAppError
from serve_app.schemas.models import ModelStatus
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.types import Answer, DetectorState, EventPage, PictureRequest, Snapshot


class Backend(Protocol):
    """The port to the model graph: it takes an encoded image and returns the answer."""

    async def ready(self) -> DetectorState:
        """Return the state of the default model, as a warm replica reports it.

        Raise Unavailable or Overloaded if no replica responds.
        """

    async def models(self) -> list[ModelStatus]:
        """Return every model that a request may name, the default one first.

        Raise Unavailable if they cannot be listed.
        """

    def admit(self, tenant: str, model: str) -> None:
        """Check for capacity before a request's images are read. Raise Overloaded if the graph is full."""

    async def detect(self, request: PictureRequest) -> Answer:
        """Return the answer for one image. Raise ServeAppError if there is none.

        The batcher shares the engine fairly between tenants.
        """


class Metrics(Protocol):
    """The port to the counters of the HTTP interface: see ``telemetry.metrics.Telemetry``."""

    def refused(self, error: ServeAppError) -> None:
        """Count an image or a request that gets an error as its response."""

    def requested(self, key: str, outcome: str) -> None:
        """Count a request with a key of this name. ``outcome`` is ``admitted`` or the code of the refusal."""

    def keys_reload_failed(self) -> None:
        """Count a failed reload of the API-key file."""


class Streams(Protocol):
    """The port to the streams.

    Every method raises Unavailable while the supervisor does not respond, and NotFound if no stream has the id.
    """

    async def create(self, spec: StreamSpec) -> StreamStatus:
        """Start a stream. Raise Conflict, SourceError, InvalidParameter or Overloaded if it is refused."""

    async def all(self) -> list[StreamStatus]:
        """Return the status of every stream, sorted by id."""

    async def status(self, stream_id: str) -> StreamStatus:
        """Return the status of one stream."""

    async def replace(self, spec: StreamSpec) -> StreamStatus:
        """Start this stream in place of the one with its id. Raise the errors of ``create`` if it is refused.

        The old stream keeps running after a refusal.
        """

    async def delete(self, stream_id: str) -> None:
        """Stop the stream and forget it."""

    async def pause(self, stream_id: str) -> StreamStatus:
        """Close the stream's source until ``resume``. A paused stream stays paused."""

    async def resume(self, stream_id: str) -> StreamStatus:
        """Open the stream's source again. A running stream keeps running."""

    async def regions(self, stream_id: str) -> Regions:
        """Return the zones and lines in which objects are counted."""

    async def set_regions(self, stream_id: str, regions: Regions) -> StreamStatus:
        """Replace the zones and lines in which objects are counted."""

    async def events(self, stream_id: str, after: int | None, within_s: float) -> EventPage:
        """Return the events whose id is above ``after`` as soon as there is one, or an empty page after ``within_s``.

        With ``after=None``, only events that have not happened yet are returned.
        """

    async def snapshot(self, stream_id: str, after: int | None, within_s: float, *, boxes: bool) -> Snapshot | None:
        """Return the newest processed frame whose id is above ``after`` as soon as there is one.

        Return None if there is none after ``within_s``.
        """
