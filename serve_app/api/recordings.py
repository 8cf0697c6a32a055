"""The routes of a stream's recordings, which list its clips and snapshots, and send their files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response

from serve_app.api import examples
from serve_app.api.access.middleware import Who
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Streams
from serve_app.api.ranges import ranged_response
from serve_app.api.streams import StreamId
from serve_app.api.uploads import PIECE_BYTES
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.recording import RecordingList
from serve_app.types import Principal

_MEDIA_TYPES = {"mp4": "video/mp4", "jpg": "image/jpeg"}
_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "`not_found`: the API key may see no such stream or file"},
    503: {"model": ErrorResponse, "description": "`unavailable` or `overloaded`, with `Retry-After`"},
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"video/mp4": {}, "image/jpeg": {}}},
    206: {"description": "The requested range", "content": {"video/mp4": {}, "image/jpeg": {}}},
    304: {"description": "The client has this file already"},
    416: {"model": ErrorResponse, "description": "`invalid_parameter`: the file does not have this range"},
}


def router(streams: Streams) -> Router:
    """Return the routes below ``/streams/{stream_id}/recordings``."""
    routes = Router(permission="streams", tags=["streams"], prefix="/streams/{stream_id}/recordings")

    @routes.head("", include_in_schema=False)
    @routes.get("", summary="List recordings", responses=examples.of_response(examples.RECORDINGS) | _ERRORS)
    async def list_recordings(
        stream_id: StreamId,
        who: Who,
        before: Annotated[
            str | None,
            Query(min_length=1, max_length=64, description="The name of a recording. Return the recordings before it."),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> RecordingList:
        """Return the clips and snapshots that the stream has recorded, the newest first.

        A new stream does not list the files of a deleted stream with the same id.
        """
        return await streams.recordings(stream_id, who, before, limit)

    @routes.head("/{file_name}", include_in_schema=False)
    @routes.get("/{file_name}", summary="Get a recording", response_class=Response, responses=_FILE | _ERRORS)
    async def get_recording(
        request: Request,
        stream_id: StreamId,
        file_name: Annotated[str, Path(description="The file name of a clip or a snapshot.", examples=[examples.CLIP])],
        who: Who,
    ) -> Response:
        """Return a clip as MP4 or a snapshot as JPEG. A client may read ranges of it, as browsers do to play a clip."""
        size_bytes = (await streams.read_recording(stream_id, who, file_name, 0, 0)).size_bytes
        return ranged_response(
            request,
            lambda span: _pieces(streams, stream_id, who, file_name, span),
            size_bytes=size_bytes,
            tag=f'"{file_name}-{size_bytes}"',
            headers={"Cache-Control": "private, no-cache"},
            media_type=_MEDIA_TYPES[file_name.rpartition(".")[2]],
        )

    return routes


async def _pieces(
    streams: Streams, stream_id: str, who: Principal, file_name: str, span: range
) -> AsyncIterator[bytes]:
    for offset in range(span.start, span.stop, PIECE_BYTES):
        piece = await streams.read_recording(stream_id, who, file_name, offset, min(PIECE_BYTES, span.stop - offset))
        yield piece.data
