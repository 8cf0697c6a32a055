"""The routes below ``/streams``, which create, show, pause and delete streams, and send their events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, get_args

from fastapi import Header, Path, Query, Response, WebSocket
from fastapi.responses import StreamingResponse

from serve_app.api import examples
from serve_app.api.access.middleware import Who, principal_of
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Backend, Streams
from serve_app.api.events import (
    KEEP_ALIVE_INTERVAL_S,
    LIVE,
    After,
    Followers,
    Read,
    Types,
    parse_types,
    send_events,
    sse_response,
)
from serve_app.errors import InvalidParameter, Unavailable
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.streams import (
    EventType,
    Regions,
    SourceSnapshot,
    StreamList,
    StreamResult,
    StreamSpec,
    StreamStatus,
)
from serve_app.types import EventPage, Principal, Snapshot

_FIRST_FRAME_TIMEOUT_S = 2.0
_TYPES = get_args(EventType)
_BOUNDARY = "frame"

StreamId = Annotated[str, Path(description="The stream's id.", examples=[examples.STREAM_ID])]
Boxes = Annotated[bool, Query(description="Draw a box around each detection.")]

_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "`not_found`: the API key may see no stream with this id"},
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


def router(streams: Streams, backend: Backend, followers: Followers) -> Router:
    """Return the routes below ``/streams``."""
    routes = Router(permission="streams", tags=["streams"], prefix="/streams")

    @routes.post(
        "",
        summary="Start a stream",
        status_code=201,
        responses=examples.of_response(examples.STREAM_STATUS, status_code=201) | _REFUSALS,
        openapi_extra=examples.of_request(examples.STREAM),
    )
    async def create_stream(spec: StreamSpec, who: Who, response: Response) -> StreamStatus:
        """Start a stream. The stream runs until it is deleted, even if the server restarts."""
        status = await streams.create(spec, who)
        response.headers["Location"] = f"/streams/{spec.id}"
        return status

    @routes.post(
        "/snapshot",
        summary="Show a frame of a source",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, 422: _REFUSALS[422], 503: _ERRORS[503]},
        openapi_extra=examples.of_request(examples.SNAPSHOT),
    )
    async def show_source(snapshot: SourceSnapshot) -> Response:
        """Return one frame of a source as a JPEG, before the source becomes a stream.

        The source passes the same checks as that of a stream. It must send a frame within 10 s.
        """
        jpeg = await backend.source_frame(snapshot.source)
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    @routes.head("", include_in_schema=False)
    @routes.get("", summary="List streams", responses=examples.of_response(examples.STREAMS) | {503: _ERRORS[503]})
    async def list_streams(who: Who) -> StreamList:
        """Return the status of every stream that the API key may see, sorted by id."""
        return StreamList(streams=await streams.all(who), owner=who.owner)

    @routes.head("/{stream_id}", include_in_schema=False)
    @routes.get("/{stream_id}", summary="Show one stream", responses=_STATUS | _ERRORS)
    async def show_stream(stream_id: StreamId, who: Who) -> StreamStatus:
        """Return a stream's state, the reason for that state, the stream's counters and its latest result."""
        return await streams.status(stream_id, who)

    @routes.put(
        "/{stream_id}",
        summary="Replace a stream",
        responses=_STATUS | _ERRORS | {422: _REFUSALS[422]},
        openapi_extra=examples.of_request(examples.STREAM),
    )
    async def replace_stream(stream_id: StreamId, who: Who, spec: StreamSpec) -> StreamStatus:
        """Start another stream under this id. The new stream's counters start at zero.

        If the new stream is refused, the old stream keeps running.
        """
        if "id" in spec.model_fields_set and spec.id != stream_id:
            raise InvalidParameter("id: it differs from the id in the path; leave it out or use the id in the path")
        return await streams.replace(spec.model_copy(update={"id": stream_id}), who)

    @routes.delete("/{stream_id}", summary="Delete a stream", status_code=204, responses=_ERRORS)
    async def delete_stream(stream_id: StreamId, who: Who) -> None:
        """Stop a stream and remove it. Files and messages that the stream has written are kept."""
        await streams.delete(stream_id, who)

    @routes.post("/{stream_id}/pause", summary="Pause a stream", responses=_STATUS | _ERRORS)
    async def pause_stream(stream_id: StreamId, who: Who) -> StreamStatus:
        """Close the stream's source, and end the stream's process. Resuming the stream starts a new process."""
        return await streams.pause(stream_id, who)

    @routes.post("/{stream_id}/resume", summary="Resume a stream", responses=_STATUS | _ERRORS)
    async def resume_stream(stream_id: StreamId, who: Who) -> StreamStatus:
        """Restart a paused or failed stream. A stream from a file continues after the last frame that has a result."""
        return await streams.resume(stream_id, who)

    @routes.head("/{stream_id}/regions", include_in_schema=False)
    @routes.get(
        "/{stream_id}/regions",
        summary="Show the regions of a stream",
        responses=examples.of_response(examples.REGIONS) | _ERRORS,
    )
    async def show_regions(stream_id: StreamId, who: Who) -> Regions:
        """Return the zones and lines for which the stream counts objects."""
        return await streams.regions(stream_id, who)

    @routes.put(
        "/{stream_id}/regions",
        summary="Replace the regions of a stream",
        responses=_STATUS | _ERRORS | {422: _REFUSALS[422]},
        openapi_extra=examples.of_request(examples.REGIONS),
    )
    async def set_regions(stream_id: StreamId, who: Who, regions: Regions) -> StreamStatus:
        """Replace the zones and lines while the stream runs. Unchanged zones and lines keep their counts."""
        return await streams.set_regions(stream_id, who, regions)

    @routes.head("/{stream_id}/detections", include_in_schema=False)
    @routes.get(
        "/{stream_id}/detections",
        summary="Show the latest result",
        responses=examples.of_response(examples.STREAM_RESULT) | _ERRORS,
    )
    async def latest_detections(stream_id: StreamId, who: Who) -> StreamResult:
        """Return the detections in the newest processed frame."""
        latest = (await streams.status(stream_id, who)).latest
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
        who: Who,
        types: Types = [],  # noqa: B006  # FastAPI copies it
        after: After = None,
        last_event_id: Annotated[int | None, Header(ge=-1)] = None,
    ) -> StreamingResponse:
        """Send the stream's events as Server-Sent Events. A WebSocket at the same path sends the same events.

        The response has no end. If the server no longer keeps some of the requested events, the server sends
        `event: missed` with the number of missing events. A browser that reconnects continues after the last event that
        it received.
        """
        after = after if last_event_id is None else last_event_id
        return await sse_response(reader(stream_id, who), parse_types(types, _TYPES), after, followers)

    @routes.websocket("/{stream_id}/events")
    async def events_by_websocket(
        socket: WebSocket,
        stream_id: StreamId,
        types: Types = [],  # noqa: B006
        after: After = None,
    ) -> None:
        read = reader(stream_id, principal_of(socket))
        await send_events(socket, read, types, _TYPES, after, followers)

    def reader(stream_id: str, who: Principal) -> Read:
        async def read(after: int | None, within_s: float) -> EventPage:
            return await streams.events(stream_id, who, after, within_s)

        return read

    @routes.head("/{stream_id}/frame.jpg", include_in_schema=False)
    @routes.get(
        "/{stream_id}/frame.jpg",
        summary="Show the newest frame",
        response_class=Response,
        responses=_ERRORS | {200: {"content": {"image/jpeg": {}}}},
    )
    async def newest_frame(stream_id: StreamId, who: Who, boxes: Boxes = True) -> Response:
        """Return the newest processed frame as a JPEG. By default, a box is drawn around each detection."""
        shot = await streams.snapshot(stream_id, who, None, _FIRST_FRAME_TIMEOUT_S, boxes=boxes)
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
        stream_id: StreamId, who: Who, boxes: Boxes = True, max_fps: Annotated[float, Query(gt=0, le=30)] = 5.0
    ) -> StreamingResponse:
        """Send the newest frames as Motion JPEG, which a browser can show in an `<img>`."""
        first = await streams.snapshot(stream_id, who, None, 0, boxes=boxes)
        parts = followers.follow(_mjpeg(streams, stream_id, who, first, boxes, 1 / max_fps))
        return StreamingResponse(parts, media_type=f"multipart/x-mixed-replace; boundary={_BOUNDARY}", headers=LIVE)

    return routes


async def _mjpeg(
    streams: Streams, stream_id: str, who: Principal, shot: Snapshot | None, boxes: bool, interval_s: float
) -> AsyncIterator[bytes]:
    while True:
        started_at_s = time.monotonic()
        # Before the first frame, an empty line is the keep-alive: RFC 2046, 5.1.1 lets readers ignore what precedes the
        # first boundary. If we sent nothing, we would not notice that the client has disconnected.
        yield _part(shot) if shot else b"\r\n"
        shown = shot.frame_id if shot else None
        newer = await streams.snapshot(stream_id, who, shown, KEEP_ALIVE_INTERVAL_S, boxes=boxes)
        shot = newer or shot  # without a newer frame, the old one is sent again as a keep-alive
        await asyncio.sleep(max(0.0, started_at_s + interval_s - time.monotonic()))


def _part(shot: Snapshot) -> bytes:
    head = (
        f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(shot.jpeg)}\r\nX-Frame-Id: {shot.frame_id}"
    )
    return f"{head}\r\n\r\n".encode() + shot.jpeg + b"\r\n"
