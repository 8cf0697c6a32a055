"""Undo a body's ``Content-Encoding`` while the body is read: RFC 9110, 8.4."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from starlette.datastructures import Headers

from serve_app.errors import Malformed, UnsupportedEncoding

READABLE = "gzip, deflate"  # what ``Accept-Encoding`` answers to another one
_PIECE_BYTES = 2**16  # inflated at once
_MAX_MEMBERS = 1000  # of a gzip body: each costs time, though it may be empty
_GZIP_WBITS, _ZLIB_WBITS, _RAW_WBITS = 31, 15, -15  # zlib's names for the three formats


class Inflater:
    """Inflates a body piece by piece, so that the reader can stop at its limit."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._members = 1
        self._inflate = zlib.decompressobj(_GZIP_WBITS) if coding == "gzip" else None

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what this part of the body inflates to, at most 64 KiB at a time. Raises Malformed."""
        for start in range(0, len(chunk), _PIECE_BYTES):  # so that what follows a member is copied in small parts
            yield from self._slice(chunk[start : start + _PIECE_BYTES])

    def finish(self) -> None:
        """Check that the body was complete. Raises Malformed."""
        if self._inflate is None or not self._inflate.eof:
            raise Malformed(f"the {self._coding} body is truncated")

    def _slice(self, data: bytes) -> Iterator[bytes]:
        is_full = False
        while data or is_full:
            if self._inflate is None:
                self._inflate = zlib.decompressobj(_format_of_deflate(data[0]))
            elif self._inflate.eof:
                self._next_member()
            try:
                piece = self._inflate.decompress(data, _PIECE_BYTES)
            except zlib.error as exc:
                raise Malformed(f"the body is not {self._coding}, which its Content-Encoding says it is") from exc
            yield piece
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            is_full = len(piece) == _PIECE_BYTES and not self._inflate.eof  # zlib may hold more than it could give

    def _next_member(self) -> None:
        """Begin with the next member: a gzip body may have several (RFC 1952, 2.2)."""
        self._members += 1
        if self._coding != "gzip" or self._members > _MAX_MEMBERS:
            raise Malformed(f"the {self._coding} body goes on behind its end")
        self._inflate = zlib.decompressobj(_GZIP_WBITS)


def _format_of_deflate(first_byte: int) -> int:
    """Return zlib's name for what ``deflate`` is here. It is the zlib format, but some clients leave its frame out (RFC
    9110, 8.4.1.2). A zlib header's first byte has 8 in its lower half (RFC 1950, 2.2); raw deflate's would then begin
    with a stored block whose padding is not zero, which no encoder writes."""
    return _ZLIB_WBITS if first_byte & 0x0F == 8 else _RAW_WBITS


def inflater(headers: Headers) -> Inflater | None:
    """Return what undoes the coding that the headers name, or None where they name none. Raises UnsupportedEncoding."""
    names = ",".join(headers.getlist("content-encoding")).lower().split(",")
    codings = [name.strip().removeprefix("x-") for name in names if name.strip() not in {"", "identity"}]
    if not codings:
        return None
    if codings not in (["gzip"], ["deflate"]):
        raise UnsupportedEncoding(
            f"Content-Encoding: {', '.join(codings)[:64]!r} is not read here; send the body as it is, or as gzip or "
            "deflate"
        )
    return Inflater(codings[0])
