"""The synchronous client for the HTTP API."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import httpx

from serve_app.client import requests
from serve_app.client.connection import Endpoint
from serve_app.client.errors import ApiError, SightlineError
from serve_app.client.events import EventFeed, MissedEvents, StreamEvent, stream_event
from serve_app.client.jobs import JobsApi
from serve_app.client.pictures import Picture, several
from serve_app.client.requests import ApiRequest
from serve_app.client.results import DetectResult, FrameResult
from serve_app.client.saving import save
from serve_app.schemas.drift import SourceDrift
from serve_app.schemas.health import HealthResponse, ReadyResponse
from serve_app.schemas.models import ModelStatus
from serve_app.schemas.recording import RecordedClip
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.types import Json, MaskFormat, Snapshot

E = TypeVar("E")
T = TypeVar("T")


class Client:
    """A client of a running Sightline server. It keeps connections open, and threads may share it.

        from serve_app.client import Client

        with Client("http://127.0.0.1:8000") as client:
            result = client.detect("dock.jpg", confidence=0.3, classes=["barcode", "qr_code"])
            for found in result:
                print(found.label, found.confidence, found.bbox)
            result.xyxy                  # (n, 4) float32
            result.to_supervision()      # for supervision's annotators, trackers and metrics

    ``url`` defaults to the environment variable ``SIGHTLINE_URL``, or else to ``http://127.0.0.1:8000``. ``api_key``
    defaults to the environment variable ``SIGHTLINE_KEY``. Every method raises ConnectionFailed if the server does not
    respond, and ApiError if the server responds with an error or is not a Sightline server.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, timeout_s: float = 60.0) -> None:
        self._endpoint = Endpoint.of(url, api_key, timeout_s)
        self._http = httpx.Client(**self._endpoint.options)
        self.streams = StreamsApi(self)
        self.jobs = JobsApi(self)

    @property
    def url(self) -> str:
        """The URL of the server, without credentials."""
        return self._endpoint.url

    def detect(
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
        """Detect objects in one image.

        ``image`` is a path, the bytes of an image file, a PIL image, or a numpy array of uint8: BGR (height, width, 3)
        as OpenCV and Ultralytics use, or grey (height, width). Arrays and PIL images are sent losslessly. ``classes``
        is a label, a class id, or several of them. ``confidence`` is a number, or a number for each class, such as
        ``{"person": 0.6, "*": 0.5}``. ``mask="rle"`` gives masks with their holes. A parameter that is left out takes
        the server's default.
        """
        params = requests.query(model, confidence, iou, classes, max_detections, agnostic_nms, mask)
        return self.send(requests.detect(image, params))

    def detect_many(
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
        """Detect objects in several images with one request.

        The returned list has one entry per image, in the same order. Each entry is a result or an error. By default,
        the server accepts 32 images and 32 MiB per request.
        """
        pictures = several(images)
        params = requests.query(model, confidence, iou, classes, max_detections, agnostic_nms, mask)
        return self.send(requests.detect_many(pictures, params)) if pictures else []

    def annotate(
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
        """Return the image as a JPEG, on which the detections or the classes of the image are drawn."""
        params = requests.query(model, confidence, iou, classes, max_detections, agnostic_nms, None)
        return self.send(requests.annotate(image, params))

    def models(self) -> list[ModelStatus]:
        """Return the models that the parameter ``model`` may name, with the default model first."""
        return self.send(requests.models()).models

    def drift(self) -> list[SourceDrift]:
        """Return, for each source that the API key may see, whether its images and detections have changed."""
        return self.send(requests.drift()).sources

    def health(self) -> HealthResponse:
        """Check that the server's process responds. The response says nothing about the models."""
        return self.send(requests.health())

    def ready(self) -> ReadyResponse:
        """Return the model that is ready. Raise ApiError if no model is ready."""
        return self.send(requests.ready())

    def send(self, request: ApiRequest[T]) -> T:
        """Send one request from ``serve_app.client.requests``, and return its result."""
        with self._endpoint.errors(self._http):
            response = self._http.request(request.method, request.path, **request.options)
        return request.read(response)

    def events(self, feed: EventFeed[E]) -> Iterator[E | MissedEvents]:
        """Yield the events of a feed, and reconnect when a connection fails."""
        while True:
            error: SightlineError | None = None
            try:
                with self.download(feed.request(self._endpoint.timeout_s)) as parts:
                    for part in parts:
                        yield from feed.read(part)
            except SightlineError as exc:
                error = exc
            time.sleep(feed.pause_s(error))

    @contextmanager
    def download(self, request: ApiRequest[None]) -> Iterator[Iterator[bytes]]:
        """Send a request, check the status of its response, and yield the bytes of the response."""
        with (
            self._endpoint.errors(self._http),
            self._http.stream(request.method, request.path, **request.options) as response,
        ):
            if not response.is_success:
                response.read()
            request.read(response)
            yield response.iter_bytes()

    def close(self) -> None:
        """Close all connections to the server."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class StreamsApi:
    """The methods of ``client.streams``. A method that takes an id raises NotFoundError if no stream has that id."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, spec: StreamSpec | Json) -> StreamStatus:
        """Start a stream: ``{"id": "gate", "source": {"uri": "rtsp://camera/1"}}``.

        Raise ConflictError if a stream with this id already exists.
        """
        return self._client.send(requests.create_stream(spec))

    def list(self) -> list[StreamStatus]:
        """Return the status of every stream, sorted by id."""
        return self._client.send(requests.list_streams()).streams

    def status(self, stream_id: str) -> StreamStatus:
        """Return a stream's state, counters and latest result."""
        return self._client.send(requests.stream_status(stream_id))

    def replace(self, spec: StreamSpec | Json) -> StreamStatus:
        """Replace the stream that has the id of ``spec``. If the new stream is refused, the old stream continues."""
        return self._client.send(requests.replace_stream(spec))

    def delete(self, stream_id: str) -> None:
        """Stop a stream and remove it."""
        self._client.send(requests.delete_stream(stream_id))

    def pause(self, stream_id: str) -> StreamStatus:
        """Close a stream's source until the stream is resumed."""
        return self._client.send(requests.pause_stream(stream_id))

    def resume(self, stream_id: str) -> StreamStatus:
        """Restart a paused or failed stream."""
        return self._client.send(requests.resume_stream(stream_id))

    def regions(self, stream_id: str) -> Regions:
        """Return the zones and lines for which a stream counts objects."""
        return self._client.send(requests.stream_regions(stream_id))

    def set_regions(self, stream_id: str, regions: Regions | Json) -> StreamStatus:
        """Replace the zones and lines of a stream. Unchanged zones and lines keep their counts."""
        return self._client.send(requests.set_stream_regions(stream_id, regions))

    def detections(self, stream_id: str) -> FrameResult:
        """Return the detections in the latest frame. Raise ApiError if no frame has been processed yet."""
        return self._client.send(requests.stream_detections(stream_id))

    def frame(self, stream_id: str, boxes: bool = True) -> Snapshot:
        """Return the id and the JPEG of the latest frame. Raise ApiError if no frame has been processed yet."""
        return self._client.send(requests.stream_frame(stream_id, boxes))

    def recordings(self, stream_id: str) -> Iterator[RecordedClip]:
        """Yield the clips and snapshots that a stream has recorded, the newest first."""
        before = None
        while True:
            page = self._client.send(requests.stream_recordings(stream_id, before))
            yield from page.recordings
            if page.next is None:
                return
            before = page.next

    def save_recording(self, stream_id: str, file_name: str, path: str | os.PathLike[str]) -> None:
        """Save a clip or a snapshot of a stream to a file. Raise NotFoundError if it was deleted."""
        save(self._client, requests.stream_recording(stream_id, file_name), path)

    def events(
        self, stream_id: str, types: Iterable[str] | None = None, after: int | None = None
    ) -> Iterator[StreamEvent | MissedEvents]:
        """Follow the events of a stream until the stream is deleted.

            for event in client.streams.events("gate", types=["line"]):
                if isinstance(event, MissedEvents):
                    print(event.missed, "events were missed")
                else:
                    print(event.at_s, event.data.line, event.data.direction)

        By default, the iterator yields only new events. If ``after`` is the id of an event, the iterator begins after
        this event. If ``after`` is -1, the iterator begins with the oldest event that the server keeps. If the
        connection fails, or the server is overloaded or restarts, the iterator reconnects and continues after the last
        event. Raise ConnectionFailed only if the first connection fails, and NotFoundError when the stream is deleted.
        """
        return self._client.events(EventFeed(requests.stream_path(stream_id, "events"), stream_event, types, after))
