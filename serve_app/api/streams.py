"""The routes below ``/streams``, which create, show, pause and delete streams, and send their events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any, get_args

from fastapi import Header, Path, Query, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from serve_app.api import examples
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Streams
from serve_app.errors import InvalidParameter, NotFound, ServeAppError, Unavailable
from serve_app.overload.limits import ConcurrencyLimit
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.streams import EventType, Regions, StreamList, StreamResult, StreamSpec, StreamStatus
from serve_app.types import Event, EventPage, Snapshot

_MAX_FOLLOWERS = 64  # per Ingress replica; each follower keeps a connection open
_KEEP_ALIVE_INTERVAL_S = 10.0  # proxies close idle connections
_FIRST_FRAME_TIMEOUT_S = 2.0
# ``X-Accel-Buffering: no`` makes nginx forward each event at once.
_LIVE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_BOUNDARY = "frame"
_NOT_FOUND, _REFUSED = 4404, 4000  # application-defined WebSocket close codes begin at 4000

StreamId = Annotated[str, Path(description="The stream's id.", examples=[examples.STREAM_ID])]
After = Annotated[
    int | None,
    Query(
        ge=-1,
        description="Send only events whose id is higher than this value. -1 sends every event that the server still "
        "keeps. Default: only new events.",
    ),
]
Types = Annotated[
    list[str], Query(description="Event types, comma-separated or in repeated parameters. Default: every type.")
]
Boxes = Annotated[bool, Query(description="Draw a box around each detection.")]

_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "`not_found`: no stream has this id"},
    503: {"model": ErrorResponse, "description": "`unavailable` or `overloaded`, with `Retry-After`"},
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorResponse, "description": "`conflict`: a stream with this id already exists"},
    422: {"model": ErrorResponse, "description": "`invalid_parameter` or `invalid_source`"},
    503: {
        "model": ErrorResponse,
        "description": "`overloaded`: `streams.max_streams` or `detector_capacity` is reached; or `unavailable`",
    },
}
_STATUS = examples.of_response(examples.STREAM_STATUS)


def router(streams: Streams) -> Router:
    """Return the routes below ``/streams``."""
    routes = Router(permission="streams", tags=["streams"], prefix="/streams")
    followers = _Followers()

    @routes.post(
        "",
        summary="Start a stream",
        status_code=201,
        responses=examples.of_response(examples.STREAM_STATUS, status_code=201) | _REFUSALS,
        openapi_extra=examples.of_request(examples.STREAM),
    )
    async def create_stream(spec: StreamSpec, response: Response) -> StreamStatus:
        """Start a stream. The stream runs until it is deleted, even if the server restarts."""
        status = await streams.create(spec)
        response.headers["Location"] = f"/streams/{spec.id}"
        return status

    @routes.head("", include_in_schema=False)
    @routes.get("", summary="List all streams", responses=examples.of_response(examples.STREAMS) | {503: _ERRORS[503]})
    async def list_streams() -> StreamList:
        """Return the status of every stream, sorted by id."""
        return StreamList(streams=await streams.all())

    @routes.head("/{stream_id}", include_in_schema=False)
    @routes.get("/{stream_id}", summary="Show one stream", responses=_STATUS | _ERRORS)
    async def show_stream(stream_id: StreamId) -> StreamStatus:
        """Return a stream's state, the reason for that state, the stream's counters and its latest result."""
        return await streams.status(stream_id)

    @routes.put(
        "/{stream_id}",
        summary="Replace a stream",
        responses=_STATUS | _ERRORS | {422: _REFUSALS[422]},
        openapi_extra=examples.of_request(examples.STREAM),
    )
    async def replace_stream(stream_id: StreamId, spec: StreamSpec) -> StreamStatus:
        """Start another stream under this id. The new stream's counters start at zero.

        If the new stream is refused, the old stream keeps running.
        """
        if "id" in spec.model_fields_set and spec.id != stream_id:
            raise InvalidParameter("id: it differs from the id in the path; leave it out or use the id in the path")
        return await streams.replace(spec.model_copy(update={"id": stream_id}))

    @routes.delete("/{stream_id}", summary="Delete a stream", status_code=204, responses=_ERRORS)
    async def delete_stream(stream_id: StreamId) -> None:
        """Stop a stream and remove it. Files and messages that the stream has written are kept."""
        await streams.delete(stream_id)

    @routes.post("/{stream_id}/pause", summary="Pause a stream", responses=_STATUS | _ERRORS)
    async def pause_stream(stream_id: StreamId) -> StreamStatus:
        """Close the stream's source, and end the stream's process. Resuming the stream starts a new process."""
        return await streams.pause(stream_id)

    @routes.post("/{stream_id}/resume", summary="Resume a stream", responses=_STATUS | _ERRORS)
    async def resume_stream(stream_id: StreamId) -> StreamStatus:
        """Restart a paused or failed stream. A stream from a file continues after the last frame that has a result."""
        return await streams.resume(stream_id)

    @routes.head("/{stream_id}/regions", include_in_schema=False)
    @routes.get(
        "/{stream_id}/regions",
        summary="Show the regions of a stream",
        responses=examples.of_response(examples.REGIONS) | _ERRORS,
    )
    async def show_regions(stream_id: StreamId) -> Regions:
        """Return the zones and lines for which the stream counts objects."""
        return await streams.regions(stream_id)

    @routes.put(
        "/{stream_id}/regions",
        summary="Replace the regions of a stream",
        responses=_STATUS | _ERRORS | {422: _REFUSALS[422]},
        openapi_extra=examples.of_request(examples.REGIONS),
    )
    async def set_regions(stream_id: StreamId, regions: Regions) -> StreamStatus:
        """Replace the zones and lines while the stream runs. Unchanged zones and lines keep their counts."""
        return await streams.set_regions(stream_id, regions)

    @routes.head("/{stream_id}/detections", include_in_schema=False)
    @routes.get(
        "/{stream_id}/detections",
        summary="Show the latest result",
        responses=examples.of_response(examples.STREAM_RESULT) | _ERRORS,
    )
    async def latest_detections(stream_id: StreamId) -> StreamResult:
        """Return the detections in the newest processed frame."""
        latest = (await streams.status(stream_id)).latest
        if latest is None:
            raise Unavailable("the stream has not processed a frame yet; retry later")
        return latest

    @routes.get(
        "/{stream_id}/events",
        summary="Follow the events of a stream",
        response_class=StreamingResponse,
        responses=_ERRORS
        | {422: _REFUSALS[422]}
        | examples.of_response(examples.EVENTS, media_type="text/event-stream"),
    )
    async def follow_events(
        stream_id: StreamId,
        types: Types = [],  # noqa: B006  # FastAPI copies it
        after: After = None,
        last_event_id: Annotated[int | None, Header(ge=-1)] = None,
    ) -> StreamingResponse:
        """Send the stream's events as Server-Sent Events. A WebSocket at the same path sends the same events.

        The response has no end. If the server no longer keeps some of the requested events, the server sends
        `event: missed` with the number of missing events. A browser that reconnects continues after the last event that
        it received.
        """
        wanted = _parse_types(types)
        after = after if last_event_id is None else last_event_id
        # The first page is read here, because a NotFound can set the status only before the response begins.
        page = await streams.events(stream_id, after, 0)
        lines = followers.follow(_sse(streams, stream_id, wanted, page))
        return StreamingResponse(lines, media_type="text/event-stream", headers=_LIVE)

    @routes.websocket("/{stream_id}/events")
    async def events_by_websocket(
        socket: WebSocket,
        stream_id: StreamId,
        types: Types = [],  # noqa: B006
        after: After = None,
    ) -> None:
        await socket.accept()
        try:
            with followers.one():
                page = await streams.events(stream_id, after, 0)
                await _until_disconnected(socket, _send_all(socket, streams, stream_id, _parse_types(types), page))
        except ServeAppError as exc:
            code = _NOT_FOUND if isinstance(exc, NotFound) else _REFUSED + exc.status_code
            with suppress(RuntimeError, WebSocketDisconnect):  # the client may have disconnected in the meantime
                await socket.close(code, exc.detail[:100])  # a close reason may have at most 123 bytes

    @routes.head("/{stream_id}/frame.jpg", include_in_schema=False)
    @routes.get(
        "/{stream_id}/frame.jpg",
        summary="Show the newest frame",
        response_class=Response,
        responses=_ERRORS | {200: {"content": {"image/jpeg": {}}}},
    )
    async def newest_frame(stream_id: StreamId, boxes: Boxes = True) -> Response:
        """Return the newest processed frame as a JPEG. By default, a box is drawn around each detection."""
        shot = await streams.snapshot(stream_id, None, _FIRST_FRAME_TIMEOUT_S, boxes=boxes)
        if shot is None:
            raise Unavailable("no frame is available yet; retry later")
        headers = {"X-Frame-Id": str(shot.frame_id), "Cache-Control": "no-store"}
        return Response(shot.jpeg, media_type="image/jpeg", headers=headers)

    @routes.get(
        "/{stream_id}/preview.mjpeg",
        summary="Watch a stream as video",
        response_class=StreamingResponse,
        responses=_ERRORS | {200: {"content": {"multipart/x-mixed-replace": {}}}},
    )
    async def preview_frames(
        stream_id: StreamId, boxes: Boxes = True, max_fps: Annotated[float, Query(gt=0, le=30)] = 5.0
    ) -> StreamingResponse:
        """Send the newest frames as Motion JPEG, which a browser can show in an `<img>`."""
        first = await streams.snapshot(stream_id, None, 0, boxes=boxes)
        parts = followers.follow(_mjpeg(streams, stream_id, first, boxes, 1 / max_fps))
        return StreamingResponse(parts, media_type=f"multipart/x-mixed-replace; boundary={_BOUNDARY}", headers=_LIVE)

    return routes


class _Followers(ConcurrencyLimit):
    """The limit on connections that follow streams."""

    def __init__(self) -> None:
        refusal = f"{_MAX_FOLLOWERS} connections follow streams, which is the limit; close one or retry later"
        super().__init__(_MAX_FOLLOWERS, "followers", refusal)

    def follow(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Return an iterator over ``parts``. The iterator counts as one follower until it ends.

        Raise Overloaded if the limit is reached.
        """
        # We check the limit before the response begins, so that the client gets a 503 if the limit is reached.
        with self.one():
            pass

        async def counted() -> AsyncIterator[bytes]:
            with suppress(ServeAppError), self.one():  # an error can only end the response, which has already begun
                async for part in parts:
                    yield part

        return counted()


def _parse_types(types: list[str]) -> frozenset[str]:
    """Return the requested event types, or all if none is requested. Raise InvalidParameter if a type is unknown."""
    known = get_args(EventType)
    named = frozenset(name.strip() for item in types for name in item.split(",")) or frozenset(known)
    if unknown := sorted(named - set(known)):
        raise InvalidParameter(f"types: no event type is named {unknown[0][:64]!r}; use {', '.join(known)}")
    return named


async def _pages(streams: Streams, stream_id: str, page: EventPage) -> AsyncIterator[EventPage]:
    """Yield the first page and every later page. A page is empty if no event happened in the keep-alive interval."""
    while True:
        yield page
        last_id = page.events[-1].event_id if page.events else page.last_id
        page = await streams.events(stream_id, last_id, _KEEP_ALIVE_INTERVAL_S)


async def _sse(streams: Streams, stream_id: str, wanted: frozenset[str], first: EventPage) -> AsyncIterator[bytes]:
    async for page in _pages(streams, stream_id, first):
        parts = [f'event: missed\ndata: {{"missed":{page.missed}}}\n\n'] if page.missed else []
        parts += [_sse_event(event) for event in page.events if event.type in wanted]
        yield ("".join(parts) or _sse_position(page)).encode()


def _sse_position(page: EventPage) -> str:
    """Return a keep-alive with the current event id. With this id, a client that reconnects misses no event."""
    last_id = page.events[-1].event_id if page.events else page.last_id
    return ": nothing new\n" + (f"id: {last_id}\n\n" if last_id is not None else "\n")


def _sse_event(event: Event) -> str:
    return f"id: {event.event_id}\nevent: {event.type}\ndata: {event.json}\n\n"


async def _send_all(
    socket: WebSocket, streams: Streams, stream_id: str, wanted: frozenset[str], first: EventPage
) -> None:
    async for page in _pages(streams, stream_id, first):
        if page.missed:
            await socket.send_json({"type": "missed", "missed": page.missed})
        for event in page.events:
            if event.type in wanted:
                await socket.send_text(event.json)


async def _until_disconnected(socket: WebSocket, sending: Any) -> None:
    """Run ``sending`` until it ends or the client disconnects.

    We read from the socket in the meantime, because only a read shows that the client has disconnected.
    """

    async def read() -> None:
        with suppress(WebSocketDisconnect):
            while True:
                await socket.receive_text()

    tasks = [asyncio.create_task(sending), asyncio.create_task(read())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(results[0], ServeAppError):
        raise results[0]


async def _mjpeg(
    streams: Streams, stream_id: str, shot: Snapshot | None, boxes: bool, interval_s: float
) -> AsyncIterator[bytes]:
    while True:
        started_at_s = time.monotonic()
        # Before the first frame, an empty line is the keep-alive: RFC 2046, 5.1.1 lets readers ignore what precedes the
        # first boundary. If we sent nothing, we would not notice that the client has disconnected.
        yield _part(shot) if shot else b"\r\n"
        shown = shot.frame_id if shot else None
        newer = await streams.snapshot(stream_id, shown, _KEEP_ALIVE_INTERVAL_S, boxes=boxes)
        shot = newer or shot  # without a newer frame, the old one is sent again as a keep-alive
        await asyncio.sleep(max(0.0, started_at_s + interval_s - time.monotonic()))


def _part(shot: Snapshot) -> bytes:
    head = (
        f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(shot.jpeg)}\r\nX-Frame-Id: {shot.frame_id}"
    )
    return f"{head}\r\n\r\n".encode() + shot.jpeg + b"\r\n"
