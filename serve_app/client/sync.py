"""The client for ordinary code."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx

from serve_app.client import requests
from serve_app.client.connection import Endpoint
from serve_app.client.errors import ApiError, SightlineError
from serve_app.client.events import EventFeed, MissedEvents, StreamEvent
from serve_app.client.pictures import Picture, several
from serve_app.client.requests import ApiRequest
from serve_app.client.results import DetectResult, FrameResult
from serve_app.schemas.health import HealthResponse, ReadyResponse
from serve_app.schemas.models import ModelStatus
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.types import Json, Snapshot

T = TypeVar("T")


class Client:
    """Talk to a running Sightline. It keeps its connections, and may be shared between threads.

        from serve_app.client import Client

        with Client("http://127.0.0.1:8000") as client:
            result = client.detect("dock.jpg", confidence=0.3, classes=["barcode", "qr_code"])
            for found in result:
                print(found.label, found.confidence, found.bbox)
            result.xyxy                  # (n, 4) float32
            result.to_supervision()      # for supervision's annotators, trackers and metrics

    ``url`` is ``SIGHTLINE_URL`` or ``http://127.0.0.1:8000`` by default, and ``api_key`` is ``SIGHTLINE_KEY``.
    Every method raises ConnectionFailed where no answer comes, and ApiError where the server answers with an error or
    with something that no Sightline answers.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, timeout_s: float = 60.0) -> None:
        self._endpoint = Endpoint.of(url, api_key, timeout_s)
        self._http = httpx.Client(**self._endpoint.options)
        self.streams = StreamsApi(self)

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._endpoint.url

    def detect(
        self,
        image: Picture,
        *,
        model: str | None = None,
        confidence: float | None = None,
        iou: float | None = None,
        classes: Iterable[str | int] | int | None = None,
        max_detections: int | None = None,
    ) -> DetectResult:
        """Detect objects in a picture.

        ``image`` is a path, the bytes of an image file, a PIL image, or a numpy array of uint8: BGR
        (height, width, 3) as OpenCV and Ultralytics have it, or grey (height, width). Pixels are sent without loss.
        A parameter that is left out takes the server's default. ``classes`` are labels or class ids, or
        one of them.
        """
        params = requests.query(model, confidence, iou, classes, max_detections)
        return self.send(requests.detect(image, params))

    def detect_many(
        self,
        images: Iterable[Picture],
        *,
        model: str | None = None,
        confidence: float | None = None,
        iou: float | None = None,
        classes: Iterable[str | int] | int | None = None,
        max_detections: int | None = None,
    ) -> list[DetectResult | ApiError]:
        """Detect objects in several pictures with one request: in their order, each its result or its own error.

        The server takes 32 pictures and 32 MiB a request unless it is told otherwise.
        """
        params, pictures = requests.query(model, confidence, iou, classes, max_detections), several(images)
        return self.send(requests.detect_many(pictures, params)) if pictures else []

    def annotate(
        self,
        image: Picture,
        *,
        model: str | None = None,
        confidence: float | None = None,
        iou: float | None = None,
        classes: Iterable[str | int] | int | None = None,
        max_detections: int | None = None,
    ) -> bytes:
        """Return the picture as a JPEG, with a box drawn around each detection."""
        params = requests.query(model, confidence, iou, classes, max_detections)
        return self.send(requests.annotate(image, params))

    def models(self) -> list[ModelStatus]:
        """List the models that ``model`` may name, the default one first."""
        return self.send(requests.models()).models

    def health(self) -> HealthResponse:
        """Return at once where the server's process answers."""
        return self.send(requests.health())

    def ready(self) -> ReadyResponse:
        """Say which model serves. Raises ApiError while none does."""
        return self.send(requests.ready())

    def send(self, request: ApiRequest[T]) -> T:
        """Send one request of ``serve_app.client.requests``."""
        with self._endpoint.errors(self._http):
            response = self._http.request(request.method, request.path, **request.options)
        return request.read(response)

    @contextmanager
    def follow(self, feed: EventFeed) -> Iterator[Iterator[bytes]]:
        """Connect to where a feed is."""
        request = feed.request(self._endpoint.timeout_s)
        with (
            self._endpoint.errors(self._http),
            self._http.stream(request.method, request.path, **request.options) as response,
        ):
            if not response.is_success:
                response.read()
            request.read(response)
            yield response.iter_bytes()

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class StreamsApi:
    """The streams of a server: ``client.streams``. Each method that takes an id raises NotFoundError."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, spec: StreamSpec | Json) -> StreamStatus:
        """Start a stream: ``{"id": "gate", "source": {"uri": "rtsp://camera/1"}}``. Raises ConflictError."""
        return self._client.send(requests.create_stream(spec))

    def list(self) -> list[StreamStatus]:
        """Return the status of every stream, sorted by id."""
        return self._client.send(requests.list_streams()).streams

    def status(self, stream_id: str) -> StreamStatus:
        """Return a stream's state, counters and latest result."""
        return self._client.send(requests.stream_status(stream_id))

    def replace(self, spec: StreamSpec | Json) -> StreamStatus:
        """Start a stream in place of the one that has its id, which continues where this one is refused."""
        return self._client.send(requests.replace_stream(spec))

    def delete(self, stream_id: str) -> None:
        """End a stream, and forget it."""
        self._client.send(requests.delete_stream(stream_id))

    def pause(self, stream_id: str) -> StreamStatus:
        """Close a stream's source until it is resumed."""
        return self._client.send(requests.pause_stream(stream_id))

    def resume(self, stream_id: str) -> StreamStatus:
        """Resume a stream that is paused or has failed."""
        return self._client.send(requests.resume_stream(stream_id))

    def regions(self, stream_id: str) -> Regions:
        """Return the zones and lines in which a stream counts objects."""
        return self._client.send(requests.stream_regions(stream_id))

    def set_regions(self, stream_id: str, regions: Regions | Json) -> StreamStatus:
        """Change the zones and lines of a stream. Those that stay the same keep their counts."""
        return self._client.send(requests.set_stream_regions(stream_id, regions))

    def detections(self, stream_id: str) -> FrameResult:
        """Return what is in the latest frame. Raises ApiError before the first one."""
        return self._client.send(requests.stream_detections(stream_id))

    def frame(self, stream_id: str, boxes: bool = True) -> Snapshot:
        """Return the id and the JPEG of the latest frame. Raises ApiError before the first one."""
        return self._client.send(requests.stream_frame(stream_id, boxes))

    def events(
        self, stream_id: str, types: Iterable[str] | None = None, after: int | None = None
    ) -> Iterator[StreamEvent | MissedEvents]:
        """Follow what happens in a stream, without end.

            for event in client.streams.events("gate", types=["line"]):
                if isinstance(event, MissedEvents):
                    print(event.missed, "events were missed")
                else:
                    print(event.at_s, event.data.line, event.data.direction)

        ``after`` is the id of the last event that is already known, -1 for every event that the server still keeps,
        and by default only new events come. A connection that breaks, and a server that is overloaded or restarts, are
        waited for: the iterator connects again and continues after the last event. Only a first connection that cannot
        be made raises ConnectionFailed. Raises NotFoundError when the stream is deleted.
        """
        feed = EventFeed(stream_id, types, after)
        while True:
            error: SightlineError | None = None
            try:
                with self._client.follow(feed) as parts:
                    for part in parts:
                        yield from feed.read(part)
            except SightlineError as exc:
                error = exc
            time.sleep(feed.pause_s(error))
