"""Read the encoded pictures in a request's body, within limits that hold while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from serve_app.api.url_fetcher import Fetcher
from serve_app.config import LimitArgs
from serve_app.errors import InvalidParameter, Limit, Malformed, ServeAppError, TooLarge, UrlsDisabled
from serve_app.schemas.detect import PictureUrl

_MAX_JSON_BYTES = 2**14
_SLICE_BYTES = 2**16  # parsed at once
_MAX_PADDING_BYTES = 64  # behind a boundary, where clients send none


async def read_pictures(
    request: Request, limits: LimitArgs, fetcher: Fetcher | None, tenant: str
) -> tuple[list[bytes], bool]:
    """Return the pictures, and whether they came as multipart parts. Without a fetcher, none is fetched by its url.

    Raises Malformed, TooLarge, UrlsDisabled, InvalidParameter, and what ``Fetcher.fetch`` raises.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        if fetcher is None:
            raise UrlsDisabled("pictures are not fetched by url here: send the picture, or set SERVE_APP_DETECT_URLS")
        url = _url_in(await read_body(request, _MAX_JSON_BYTES, "json_body"))
        return [await fetcher.fetch(url, tenant)], False
    body = await read_body(request, limits.max_body_mib * 2**20, "limits.max_body_mib")
    if kind != "multipart/form-data":
        return [body], False
    return await _split(request, body, limits), True


def _url_in(body: bytes) -> str:
    try:
        return PictureUrl.model_validate_json(body).url
    except ValidationError as exc:  # its text holds the body
        if any(error["type"] == "json_invalid" for error in exc.errors()):
            raise Malformed("the body is no valid JSON") from None
        raise InvalidParameter('a picture\'s url is sent as {"url": "https://…"}, and nothing else') from None


async def read_body(request: Request, max_bytes: int, limit: Limit) -> bytes:
    """Return the whole body. Raises TooLarge, which names ``limit``, as soon as it is too large, and Malformed."""
    size_limit = f"{max_bytes >> 20} MiB" if max_bytes >> 20 else f"{max_bytes >> 10} KiB"
    advice = "send less or raise it" if limit == "limits.max_body_mib" else "send less"
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise TooLarge(
            f"{limit}: the body has {int(declared)} bytes, and the limit is {size_limit}; {advice}", limit=limit
        )
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise TooLarge(f"{limit}: the body is larger than the limit of {size_limit}; {advice}", limit=limit)
            chunks.append(chunk)
    except ClientDisconnect as exc:
        raise Malformed("the client went away before its body was complete") from exc
    return b"".join(chunks)


async def _split(request: Request, body: bytes, limits: LimitArgs) -> list[bytes]:
    _, parameters = parse_options_header(request.headers["content-type"])
    boundary = parameters.get(b"boundary")
    if not boundary:
        raise Malformed("the multipart body's Content-Type names no boundary")
    slices = _slices(body, boundary, limits)
    parser = MultiPartParser(request.headers, slices, max_files=limits.max_images_per_request, max_fields=0)
    parser.spool_max_size = len(body) + 1  # the body is in memory: no part of it goes to a disk
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        raise _refusal(exc, limits) from exc
    try:
        parts = form.multi_items()
        if not parts:
            raise Malformed("the multipart body has no part named 'file'")
        if any(name != "file" or not isinstance(part, UploadFile) for name, part in parts):
            raise Malformed("send pictures as parts named 'file'; thresholds belong in the query")
        return [await part.read() for _, part in parts if isinstance(part, UploadFile)]
    finally:
        await form.close()


async def _slices(body: bytes, boundary: bytes, limits: LimitArgs) -> AsyncGenerator[bytes, None]:
    """Yield the body to the parser in slices, so that other requests run in between. Raises Malformed, TooLarge.

    The parser is slow at each line that begins as a delimiter does, even where it then takes it for data, and at white
    space behind one. RFC 2046, 5.1.1: a delimiter stands before each part and at the end, and no other line begins so.
    """
    delimiter, closing = b"\r\n--" + boundary, b"--" + boundary + b"--"
    delimiters, is_closed = 0, False
    for start in range(0, len(body), _SLICE_BYTES):
        stop = start + _SLICE_BYTES
        at = body.find(delimiter, max(0, start - len(delimiter) + 1), stop)
        while at >= 0:
            delimiters += 1
            if delimiters > limits.max_images_per_request + 1:
                raise _too_many(limits)
            if not body[at + len(delimiter) : at + len(delimiter) + _MAX_PADDING_BYTES].strip(b" \t"):
                raise Malformed("a boundary of the multipart body is followed by nothing, or by too much white space")
            at = body.find(delimiter, at + 1, stop)
        is_closed = is_closed or body.find(closing, max(0, start - len(closing) + 1), stop) >= 0
        yield body[start:stop]
        await asyncio.sleep(0)
    if not is_closed:  # the parser would answer the parts that came, as if they were all
        raise Malformed("the multipart body is truncated: its closing boundary is missing")


def _refusal(exc: MultiPartException, limits: LimitArgs) -> ServeAppError:
    if exc.message.startswith("Too many files"):
        return _too_many(limits)
    if exc.message.startswith("Too many fields"):
        return Malformed("send pictures as parts named 'file', with a filename; thresholds belong in the query")
    return Malformed(f"the multipart body is malformed: {exc.message}")


def _too_many(limits: LimitArgs) -> TooLarge:
    return TooLarge(
        f"limits.max_images_per_request: the request has more than {limits.max_images_per_request} pictures, which is "
        "the limit; send fewer or raise it",
        limit="limits.max_images_per_request",
    )
