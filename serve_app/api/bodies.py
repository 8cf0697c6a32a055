"""A request's body -> the encoded pictures in it, within limits that hold while it is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from serve_app.config import LimitArgs
from serve_app.errors import Malformed, ServeAppError, TooLarge


async def read_pictures(request: Request, limits: LimitArgs) -> tuple[list[bytes], bool]:
    """The pictures, and whether they came as multipart parts.

    Raises Malformed, TooLarge.
    """
    body = await read_body(request, limits.max_body_mib)
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return [body], False
    return await _split(request, body, limits), True


async def read_body(request: Request, max_mib: int) -> bytes:
    """All of it. Raises TooLarge as soon as it is, and Malformed."""
    max_bytes = max_mib * 2**20
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise TooLarge(f"the body has {int(declared) / 2**20:.1f} MiB; the limit is {max_mib}")
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise TooLarge(f"the body is larger than the limit of {max_mib} MiB")
            chunks.append(chunk)
    except ClientDisconnect as exc:
        raise Malformed("the client went away before its body was complete") from exc
    return b"".join(chunks)


async def _split(request: Request, body: bytes, limits: LimitArgs) -> list[bytes]:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    _, parameters = parse_options_header(request.headers["content-type"])
    boundary = parameters.get(b"boundary")
    if not boundary:
        raise Malformed("the multipart body's Content-Type names no boundary")
    if b"--" + boundary + b"--" not in body:  # the parser would answer the parts that came, as if they were all
        raise Malformed("the multipart body is truncated: its closing boundary is missing")
    parser = MultiPartParser(request.headers, once(), max_files=limits.max_images_per_request, max_fields=0)
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


def _refusal(exc: MultiPartException, limits: LimitArgs) -> ServeAppError:
    if exc.message.startswith("Too many files"):
        return TooLarge(f"more than {limits.max_images_per_request} pictures in one request")
    if exc.message.startswith("Too many fields"):
        return Malformed("send pictures as parts named 'file', with a filename; thresholds belong in the query")
    return Malformed(f"the multipart body is malformed: {exc.message}")
