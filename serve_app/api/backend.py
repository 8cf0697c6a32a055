"""The three ``Protocol`` classes through which the HTTP interface reaches the rest of the application."""

from __future__ import annotations

from typing import Protocol

from serve_app.errors import ServeAppError
from serve_app.schemas.models import ModelStatus
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.types import Answer, DetectorState, EventPage, PictureRequest, Snapshot


class Backend(Protocol):
    """The interface to the model graph, which takes an encoded image and returns the detections."""

    async def ready(self) -> DetectorState:
        """Ask a warm replica for the state of the default model, and return it.

        Raise Unavailable or Overloaded if no replica responds.
        """

    async def models(self) -> list[ModelStatus]:
        """Return every model that a request may name, with the default model first.

        Raise Unavailable if the models cannot be listed.
        """

    def admit(self, tenant: str, model: str) -> None:
        """Check for capacity before a request's images are read. Raise Overloaded if the graph is full."""

    async def detect(self, request: PictureRequest) -> Answer:
        """Return the answer for one image. Raise ServeAppError if the image cannot be processed.

        The batcher shares the engine fairly between tenants.
        """


class Metrics(Protocol):
    """The interface to the counters of HTTP requests: see ``telemetry.metrics.Telemetry``."""

    def refused(self, error: ServeAppError) -> None:
        """Count an image or a request whose response is an error."""

    def requested(self, key: str, outcome: str) -> None:
        """Count a request whose API key has the name ``key``.

        ``outcome`` is ``admitted`` or the error code of the refusal.
        """

    def keys_reload_failed(self) -> None:
        """Count a failed reload of the API-key file."""


class Streams(Protocol):
    """The interface to the streams.

    Every method raises Unavailable while the supervisor does not respond, and NotFound if no stream has the given id.
    """

    async def create(self, spec: StreamSpec) -> StreamStatus:
        """Start a stream. Raise Conflict, SourceError, InvalidParameter or Overloaded if the stream is refused."""

    async def all(self) -> list[StreamStatus]:
        """Return the status of every stream, sorted by id."""

    async def status(self, stream_id: str) -> StreamStatus:
        """Return the status of one stream."""

    async def replace(self, spec: StreamSpec) -> StreamStatus:
        """Replace the stream that has the id of ``spec``. Raise the errors of ``create`` if the new stream is refused.

        The old stream then keeps running.
        """

    async def delete(self, stream_id: str) -> None:
        """Stop the stream and remove it."""

    async def pause(self, stream_id: str) -> StreamStatus:
        """Close the stream's source until ``resume`` is called. A paused stream stays paused."""

    async def resume(self, stream_id: str) -> StreamStatus:
        """Open the stream's source again. A running stream keeps running."""

    async def regions(self, stream_id: str) -> Regions:
        """Return the zones and lines for which the stream counts objects."""

    async def set_regions(self, stream_id: str, regions: Regions) -> StreamStatus:
        """Replace the zones and lines for which the stream counts objects."""

    async def events(self, stream_id: str, after: int | None, within_s: float) -> EventPage:
        """Return the events whose id is above ``after``. If there are none, wait up to ``within_s`` seconds for one.

        Return an empty page if no such event happens in that time. With ``after=None``, return only events that happen
        after the call.
        """

    async def snapshot(self, stream_id: str, after: int | None, within_s: float, *, boxes: bool) -> Snapshot | None:
        """Return the newest processed frame if its id is above ``after``.

        Otherwise, wait up to ``within_s`` seconds for such a frame. Return None if no such frame is processed
        in that time.
        """
