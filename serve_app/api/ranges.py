"""Responses with a file, which a client may read in ranges (RFC 9110, 14)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from serve_app.api.errors import to_response
from serve_app.errors import InvalidParameter

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE)


def ranged_response(
    request: Request,
    pieces: Callable[[range], AsyncIterator[bytes]],
    *,
    size_bytes: int,
    tag: str,
    headers: Mapping[str, str],
    media_type: str,
) -> Response:
    """Return the file, the range that the client requests, or 304 if the client has the file with the entity tag.

    ``pieces`` yields the bytes of a range.
    """
    head = {**headers, "ETag": tag, "Accept-Ranges": "bytes"}
    if matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=head)
    span = _range_of(request, tag, size_bytes)
    if span is None:
        error = InvalidParameter(f"Range: the file has {size_bytes} bytes; request a range inside it")
        response = to_response(request, error, 416)
        response.headers["Content-Range"] = f"bytes */{size_bytes}"
        return response
    head["Content-Length"] = str(len(span))
    status_code = 200
    if len(span) < size_bytes:
        status_code = 206
        head["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size_bytes}"
    if request.method == "HEAD":
        return Response(None, status_code, head, media_type)
    return StreamingResponse(pieces(span), status_code, head, media_type)


def matches(header: str | None, tag: str) -> bool:
    """Return whether an ``If-None-Match`` names this entity tag (RFC 9110, 13.1.2)."""
    if header is None:
        return False
    return header.strip() == "*" or tag in {name.strip().removeprefix("W/") for name in header.split(",")}


def _range_of(request: Request, tag: str, size_bytes: int) -> range | None:
    """Return the bytes that the client requests, or None if the file does not have them.

    The whole file is returned for several ranges, for an invalid range, and if the client has a part of another file.
    """
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    whole = range(size_bytes)
    if found is None or found[1] == found[2] == "" or request.headers.get("if-range", tag) != tag:
        return whole
    if found[1] == "":
        return whole[-int(found[2]) :] if int(found[2]) and size_bytes else None
    start, stop = int(found[1]), int(found[2]) + 1 if found[2] else size_bytes
    if found[2] and stop <= start:
        return whole
    return whole[start:stop] if start < size_bytes else None
