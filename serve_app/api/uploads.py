"""Read request bodies of any size piece by piece, without holding them in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from serve_app.api.content_coding import inflater
from serve_app.api.multipart import file_names
from serve_app.errors import DeadlineExceeded, Malformed

PIECE_BYTES = 2**20  # files travel to the supervisor in pieces of this size
_UNENCODED = {b"", b"7bit", b"8bit", b"binary"}


@dataclass(frozen=True)
class FormPart:
    """One part of a multipart body. ``pieces`` must be read before the next part; what is not read is skipped."""

    name: str
    filename: str | None
    pieces: AsyncIterator[bytes]


async def body_pieces(request: Request, timeout_s: float) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, decompressed.

    Raise Malformed if the body is incomplete or corrupt, UnsupportedEncoding if it cannot be decompressed, and
    DeadlineExceeded if nothing arrives for ``timeout_s`` seconds.
    """
    coding, chunks = inflater(request.headers), request.stream()
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                chunk = await anext(chunks, None)
        except ClientDisconnect as exc:
            raise Malformed("the client disconnected before the request body was complete") from exc
        except TimeoutError as exc:
            raise DeadlineExceeded(
                f"limits.deadline_s: no part of the body arrived for {timeout_s:g} s; send it faster or raise the limit"
            ) from exc
        if chunk is None:
            break
        for piece in (chunk,) if coding is None else coding.pieces(chunk):
            yield piece
            await asyncio.sleep(0)
    if coding is not None:
        coding.finish()


async def sized(pieces: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes, bool]]:
    """Yield the offset and the data of each piece of ``PIECE_BYTES``, and whether it is the last one.

    The last piece may be shorter. An empty body has one empty piece.
    """
    held, offset = bytearray(), 0
    async for piece in pieces:
        held += piece
        while len(held) > PIECE_BYTES:
            yield offset, bytes(held[:PIECE_BYTES]), False
            del held[:PIECE_BYTES]
            offset += PIECE_BYTES
    yield offset, bytes(held), True


def boundary_of(request: Request) -> bytes | None:
    """Return the boundary of a multipart body, or None if the body has another type.

    Raise Malformed if the header has no boundary.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    if not kind.startswith(b"multipart/"):
        return None
    if not parameters.get(b"boundary"):
        raise Malformed(
            "the multipart body's Content-Type has no boundary parameter; let the HTTP client set the header"
        )
    return parameters[b"boundary"]


async def form_parts(pieces: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[FormPart]:
    """Yield the parts of a multipart body while it arrives. Raise Malformed if it is not valid multipart."""
    form = _Form(pieces, boundary)
    while await form.skip_to_part():
        yield form.part()


class _Form:
    """A multipart body that is read from ``pieces`` as its parts are."""

    def __init__(self, pieces: AsyncIterator[bytes], boundary: bytes) -> None:
        self._pieces = pieces
        self._data: deque[bytes | None] = deque()  # None: the part begins
        self._headers: deque[dict[bytes, bytes]] = deque()  # of the parts that have begun, but are not yet returned
        self._field, self._value = b"", b""
        self._is_complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": lambda: self._headers.append({}),
                    "on_header_begin": self._on_header_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": lambda: self._data.append(None),
                    "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
                    "on_end": self._on_end,
                },
            )
        except FormParserError as exc:
            raise Malformed("the multipart body's boundary is too long") from exc

    async def skip_to_part(self) -> bool:
        """Skip data until a part begins. Return False at the end of the body."""
        while await self._fill():
            if self._data.popleft() is None:
                return True
        return False

    def part(self) -> FormPart:
        """Return the part that has just begun."""
        headers = self._headers.popleft()
        if headers.get(b"content-transfer-encoding", b"").strip().lower() not in _UNENCODED:
            raise Malformed("Content-Transfer-Encoding: only binary parts are supported; send the files as they are")
        name, filename = file_names(headers.get(b"content-disposition", b"").decode("latin-1"))
        return FormPart(name, filename, self._rest())

    async def _rest(self) -> AsyncIterator[bytes]:
        """Yield the data of the part, until the next part begins."""
        while await self._fill():
            data = self._data[0]
            if data is None:
                return
            self._data.popleft()
            yield data

    async def _fill(self) -> bool:
        """Read on until there is data or a new part. Return False at the end of the body."""
        while not self._data:
            piece = await anext(self._pieces, None)
            if piece is None:
                if not self._is_complete:
                    raise Malformed(
                        "the multipart body has no closing boundary, so it is truncated; send the whole body"
                    )
                return False
            try:
                self._parser.write(piece)
            except FormParserError as exc:
                raise Malformed("the body is not valid multipart; let the HTTP client build it") from exc
        return True

    def _on_header_begin(self) -> None:
        self._field, self._value = b"", b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[-1][self._field.lower()] = self._value

    def _on_end(self) -> None:
        self._is_complete = True
