"""What the HTTP interface needs of the graph behind it."""

from __future__ import annotations

from typing import Protocol

from serve_app.errors import ServeAppError
from serve_app.schemas.models import ModelStatus
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.types import Answer, DetectorState, EventPage, PictureRequest, Snapshot


class Pipeline(Protocol):
    """Encoded picture in, answer out."""

    async def ready(self) -> DetectorState:
        """Return what serves now, asked of a warm replica. Raises Unavailable."""

    async def models(self) -> list[ModelStatus]:
        """Every model that a request may name, the default one first. Raises Unavailable."""

    def admit(self, tenant: str, model: str) -> None:
        """Before a request's pictures are read. Raises Overloaded."""

    async def detect(self, request: PictureRequest) -> Answer:
        """Return one picture's answer. Raises ServeAppError."""

    def refused(self, error: ServeAppError) -> None:
        """Count a picture or request that gets an error for its answer."""

    def asked(self, key: str, outcome: str) -> None:
        """Count a request that came with a key of this name: ``admitted``, or the code of the error that refused it."""

    def keys_unreadable(self) -> None:
        """Count a look at the keys' file that found it missing or broken."""


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
