"""Decompress a request body while it is read, according to its ``Content-Encoding`` (RFC 9110, 8.4)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from starlette.datastructures import Headers

from serve_app.errors import Malformed, UnsupportedEncoding

SUPPORTED = "gzip, deflate"  # sent as ``Accept-Encoding`` when another coding is refused
_PIECE_BYTES = 2**16  # one call of zlib takes and returns at most this many bytes
_MAX_MEMBERS = 1000  # a gzip body may have at most this many members, because even an empty member takes time
_GZIP_WBITS, _ZLIB_WBITS, _RAW_WBITS = 31, 15, -15  # zlib's ``wbits`` for the three formats


class Inflater:
    """A decompressor that inflates a body piece by piece, so the reader can stop when its size limit is reached."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._members = 1
        self._inflate = zlib.decompressobj(_GZIP_WBITS) if coding == "gzip" else None

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the inflated bytes of ``chunk``, at most 64 KiB at a time.

        Raise Malformed if ``chunk`` is not valid compressed data.
        """
        # Slices are small, because zlib copies all input that follows a gzip member.
        for start in range(0, len(chunk), _PIECE_BYTES):
            yield from self._slice(chunk[start : start + _PIECE_BYTES])

    def finish(self) -> None:
        """Raise Malformed if the body was truncated."""
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
                raise Malformed(f"the body has the Content-Encoding {self._coding}, but cannot be inflated") from exc
            yield piece
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            is_full = len(piece) == _PIECE_BYTES and not self._inflate.eof  # zlib may have more output

    def _next_member(self) -> None:
        """Start the next member of a gzip body, which may have several (RFC 1952, 2.2)."""
        self._members += 1
        if self._coding != "gzip" or self._members > _MAX_MEMBERS:
            raise Malformed(f"the {self._coding} body has data after its end, or too many gzip members")
        self._inflate = zlib.decompressobj(_GZIP_WBITS)


def _format_of_deflate(first_byte: int) -> int:
    """Return zlib's ``wbits`` for a ``deflate`` body that begins with this byte.

    The body should be in zlib format, but some clients leave out the zlib header (RFC 9110, 8.4.1.2). In the first
    byte of a zlib header, the lower four bits are 8 (RFC 1950, 2.2). Raw deflate data has such a first byte only if it
    begins with a stored block whose padding is not zero, and no encoder writes such a block.
    """
    return _ZLIB_WBITS if first_byte & 0x0F == 8 else _RAW_WBITS


def inflater(headers: Headers) -> Inflater | None:
    """Return the decompressor for the Content-Encoding, or None if the body is not compressed.

    Raise UnsupportedEncoding if the Content-Encoding is neither gzip nor deflate.
    """
    names = ",".join(headers.getlist("content-encoding")).lower().split(",")
    codings = [name.strip().removeprefix("x-") for name in names if name.strip() not in {"", "identity"}]
    if not codings:
        return None
    if codings not in (["gzip"], ["deflate"]):
        raise UnsupportedEncoding(
            f"Content-Encoding: {', '.join(codings)[:64]!r} is not supported; send the body uncompressed, or as gzip "
            "or deflate"
        )
    return Inflater(codings[0])
