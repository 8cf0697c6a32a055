"""The asynchronous client, which has the same methods as ``Client``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx

from serve_app.client import requests
from serve_app.client.connection import Endpoint
from serve_app.client.errors import ApiError, SightlineError
from serve_app.client.events import EventFeed, MissedEvents, StreamEvent, stream_event
from serve_app.client.jobs import AsyncJobsApi
from serve_app.client.pictures import Picture, several
from serve_app.client.requests import ApiRequest
from serve_app.client.results import DetectResult, FrameResult
from serve_app.client.saving import save_async
from serve_app.schemas.drift import SourceDrift
from serve_app.schemas.health import HealthResponse, ReadyResponse
from serve_app.schemas.models import ModelStatus
from serve_app.schemas.recording import RecordedClip
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.types import Json, MaskFormat, Snapshot

E = TypeVar("E")
T = TypeVar("T")


class AsyncClient:
    """An asyncio client of a running Sightline server: see ``Client`` for every method.

    from serve_app.client import AsyncClient

    async with AsyncClient() as client:
        one, other = await asyncio.gather(client.detect("dock.jpg"), client.detect("shelf.jpg"))
        async for event in client.streams.events("gate"):
            print(event)
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, timeout_s: float = 60.0) -> None:
        self._endpoint = Endpoint.of(url, api_key, timeout_s)
        self._http = httpx.AsyncClient(**self._endpoint.options)
        self.streams = AsyncStreamsApi(self)
        self.jobs = AsyncJobsApi(self)

    @property
    def url(self) -> str:
        """The URL of the server, without credentials."""
        return self._endpoint.url

    async def detect(
        self,
        image: Picture,
        *,
        model: str | None = None,
        confidence: float | str | Mapping[str, float] | None = None,
        iou: float | None = None,
        classes: Iterable[str | int] | int | None = None,
        max_detections: int | None = None,
        agnostic_nms: bool | None = None,
        mask: MaskFormat | None = None,
    ) -> DetectResult:
        """Detect objects in one image: see ``Client.detect``."""
        params = requests.query(model, confidence, iou, classes, max_detections, agnostic_nms, mask)
        return await self.send(await asyncio.to_thread(requests.detect, image, params))

    async def detect_many(
        self,
        images: Iterable[Picture],
        *,
        model: str | None = None,
        confidence: float | str | Mapping[str, float] | None = None,
        iou: float | None = None,
        classes: Iterable[str | int] | int | None = None,
        max_detections: int | None = None,
        agnostic_nms: bool | None = None,
        mask: MaskFormat | None = None,
    ) -> list[DetectResult | ApiError]:
        """Detect objects in several images: see ``Client.detect_many``."""
        pictures = several(images)
        params = requests.query(model, confidence, iou, classes, max_detections, agnostic_nms, mask)
        return await self.send(await asyncio.to_thread(requests.detect_many, pictures, params)) if pictures else []

    async def annotate(
        self,
        image: Picture,
        *,
        model: str | None = None,
        confidence: float | str | Mapping[str, float] | None = None,
        iou: float | None = None,
        classes: Iterable[str | int] | int | None = None,
        max_detections: int | None = None,
        agnostic_nms: bool | None = None,
    ) -> bytes:
        """Return the image with its boxes drawn: see ``Client.annotate``."""
        params = requests.query(model, confidence, iou, classes, max_detections, agnostic_nms, None)
        return await self.send(await asyncio.to_thread(requests.annotate, image, params))

    async def models(self) -> list[ModelStatus]:
        """Return the models of the server: see ``Client.models``."""
        return (await self.send(requests.models())).models

    async def drift(self) -> list[SourceDrift]:
        """Return the drift of every source: see ``Client.drift``."""
        return (await self.send(requests.drift())).sources

    async def health(self) -> HealthResponse:
        """Check that the process responds: see ``Client.health``."""
        return await self.send(requests.health())

    async def ready(self) -> ReadyResponse:
        """Return the model that is ready: see ``Client.ready``."""
        return await self.send(requests.ready())

    async def send(self, request: ApiRequest[T]) -> T:
        """Send one request from ``serve_app.client.requests``, and return its result."""
        with self._endpoint.errors(self._http):
            response = await self._http.request(request.method, request.path, **request.options)
        return request.read(response)

    async def events(self, feed: EventFeed[E]) -> AsyncIterator[E | MissedEvents]:
        """Yield the events of a feed, and reconnect when a connection fails."""
        while True:
            error: SightlineError | None = None
            try:
                async with self.download(feed.request(self._endpoint.timeout_s)) as parts:
                    async for part in parts:
                        for event in feed.read(part):
                            yield event
            except SightlineError as exc:
                error = exc
            await asyncio.sleep(feed.pause_s(error))

    @asynccontextmanager
    async def download(self, request: ApiRequest[None]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a request, check the status of its response, and yield the bytes of the response."""
        with self._endpoint.errors(self._http):
            async with self._http.stream(request.method, request.path, **request.options) as response:
                if not response.is_success:
                    await response.aread()
                request.read(response)
                yield response.aiter_bytes()

    async def close(self) -> None:
        """Close all connections to the server."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncStreamsApi:
    """The asyncio methods of ``client.streams``: see ``StreamsApi`` for every method."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(self, spec: StreamSpec | Json) -> StreamStatus:
        """Start a stream: see ``StreamsApi.create``."""
        return await self._client.send(requests.create_stream(spec))

    async def list(self) -> list[StreamStatus]:
        """Return the status of every stream: see ``StreamsApi.list``."""
        return (await self._client.send(requests.list_streams())).streams

    async def status(self, stream_id: str) -> StreamStatus:
        """Return the status of a stream: see ``StreamsApi.status``."""
        return await self._client.send(requests.stream_status(stream_id))

    async def replace(self, spec: StreamSpec | Json) -> StreamStatus:
        """Replace a stream: see ``StreamsApi.replace``."""
        return await self._client.send(requests.replace_stream(spec))

    async def delete(self, stream_id: str) -> None:
        """Stop a stream and remove it: see ``StreamsApi.delete``."""
        await self._client.send(requests.delete_stream(stream_id))

    async def pause(self, stream_id: str) -> StreamStatus:
        """Close a stream's source: see ``StreamsApi.pause``."""
        return await self._client.send(requests.pause_stream(stream_id))

    async def resume(self, stream_id: str) -> StreamStatus:
        """Restart a paused or failed stream: see ``StreamsApi.resume``."""
        return await self._client.send(requests.resume_stream(stream_id))

    async def regions(self, stream_id: str) -> Regions:
        """Return a stream's zones and lines: see ``StreamsApi.regions``."""
        return await self._client.send(requests.stream_regions(stream_id))

    async def set_regions(self, stream_id: str, regions: Regions | Json) -> StreamStatus:
        """Replace a stream's zones and lines: see ``StreamsApi.set_regions``."""
        return await self._client.send(requests.set_stream_regions(stream_id, regions))

    async def detections(self, stream_id: str) -> FrameResult:
        """Return the detections in the latest frame: see ``StreamsApi.detections``."""
        return await self._client.send(requests.stream_detections(stream_id))

    async def frame(self, stream_id: str, boxes: bool = True) -> Snapshot:
        """Return the latest frame as a JPEG: see ``StreamsApi.frame``."""
        return await self._client.send(requests.stream_frame(stream_id, boxes))

    async def recordings(self, stream_id: str) -> AsyncIterator[RecordedClip]:
        """Yield the recordings of a stream: see ``StreamsApi.recordings``."""
        before = None
        while True:
            page = await self._client.send(requests.stream_recordings(stream_id, before))
            for recording in page.recordings:
                yield recording
            if page.next is None:
                return
            before = page.next

    async def save_recording(self, stream_id: str, file_name: str, path: str | os.PathLike[str]) -> None:
        """Save a clip or a snapshot of a stream to a file: see ``StreamsApi.save_recording``."""
        await save_async(self._client, requests.stream_recording(stream_id, file_name), path)

    def events(
        self, stream_id: str, types: Iterable[str] | None = None, after: int | None = None
    ) -> AsyncIterator[StreamEvent | MissedEvents]:
        """Follow a stream's events: see ``StreamsApi.events``.

        Use ``contextlib.aclosing`` to close the connection when you leave the loop.
        """
        return self._client.events(EventFeed(requests.stream_path(stream_id, "events"), stream_event, types, after))
