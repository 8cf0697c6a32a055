"""Decoding of a body's ``Content-Encoding`` while the body is read: RFC 9110, 8.4."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from starlette.datastructures import Headers

from serve_app.errors import Malformed, UnsupportedEncoding

SUPPORTED = "gzip, deflate"  # the ``Accept-Encoding`` of the response to any other coding
_PIECE_BYTES = 2**16  # how much is inflated at once
_MAX_MEMBERS = 1000  # members of one gzip body; each costs time, even when it is empty
_GZIP_WBITS, _ZLIB_WBITS, _RAW_WBITS = 31, 15, -15  # zlib's numbers for the three formats


class Inflater:
    """A decompressor that inflates a body piece by piece, so that the reader can stop at its limit."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._members = 1
        self._inflate = zlib.decompressobj(_GZIP_WBITS) if coding == "gzip" else None

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the inflated bytes of this part of the body, at most 64 KiB at a time.

        Raise Malformed if the part is not valid compressed data.
        """
        for start in range(0, len(chunk), _PIECE_BYTES):  # small slices, because zlib copies what follows a member
            yield from self._slice(chunk[start : start + _PIECE_BYTES])

    def finish(self) -> None:
        """Check that the body was complete. Raise Malformed if it was truncated."""
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
                raise Malformed(f"the body is not {self._coding}, although its Content-Encoding says so") from exc
            yield piece
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            is_full = len(piece) == _PIECE_BYTES and not self._inflate.eof  # zlib may hold more output

    def _next_member(self) -> None:
        """Start the next member; a gzip body may have several (RFC 1952, 2.2)."""
        self._members += 1
        if self._coding != "gzip" or self._members > _MAX_MEMBERS:
            raise Malformed(f"the {self._coding} body has data after its end, or too many members")
        self._inflate = zlib.decompressobj(_GZIP_WBITS)


def _format_of_deflate(first_byte: int) -> int:
    """Return zlib's number for the format of a ``deflate`` body that begins with this byte.

    It should be the zlib format, but some clients leave out the zlib header (RFC 9110, 8.4.1.2). The first byte of a
    zlib header has 8 in its lower half (RFC 1950, 2.2). Raw deflate data with such a first byte would begin with a
    stored block whose padding is not zero, which no encoder writes.
    """
    return _ZLIB_WBITS if first_byte & 0x0F == 8 else _RAW_WBITS


def inflater(headers: Headers) -> Inflater | None:
    """Return the decompressor for the headers' Content-Encoding, or None if they name no coding.

    Raise UnsupportedEncoding if the coding is neither gzip nor deflate.
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
