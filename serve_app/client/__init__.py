"""A small synchronous and asynchronous client for the HTTP API. It detects objects and manages streams and jobs.

    from serve_app.client import Client

    with Client() as client:                                 # uses SIGHTLINE_URL and SIGHTLINE_KEY
        result = client.detect("dock.jpg", confidence=0.3)   # or bytes, a BGR array or a PIL image
        print(result.labels, result.xyxy)

        client.streams.create({"id": "gate", "source": {"uri": "rtsp://camera/1"}, "track": True})
        for event in client.streams.events("gate", types=["result"]):
            print(event)

The client needs httpx and pydantic, and also numpy if you use arrays. It needs none of the server's other dependencies.
"""

from serve_app.client.async_ import AsyncClient
from serve_app.client.errors import (
    ApiError,
    ClientClosed,
    ConflictError,
    ConnectionFailed,
    NotFoundError,
    SightlineError,
)
from serve_app.client.events import JobEvent, MissedEvents, StreamEvent
from serve_app.client.results import DetectResult, FrameResult
from serve_app.client.sync import Client

__all__ = [
    "Client",
    "AsyncClient",
    "DetectResult",
    "FrameResult",
    "StreamEvent",
    "JobEvent",
    "MissedEvents",
    "SightlineError",
    "ConnectionFailed",
    "ClientClosed",
    "ApiError",
    "NotFoundError",
    "ConflictError",
]
