"""A multipart parser (RFC 2046, 5.1.1, and RFC 7578) that also accepts common mistakes of clients.

The whole body is in memory, and the parser finds delimiters with ``bytes.find``. A Python loop over every byte or line
of an image would be slow.
"""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from email.parser import HeaderParser

from python_multipart.multipart import parse_options_header

from serve_app.errors import Malformed

_SLICE_BYTES = 2**16  # the number of bytes that are searched or decoded before other requests may run
_MAX_PADDING_BYTES = 64  # white space that may follow a boundary; real clients send none
_MAX_BOUNDARY_BYTES = 200  # RFC 2046 allows 70
_MAX_HEADERS_BYTES = 8192  # per part
_MAX_DISPOSITION_CHARS = 2048  # Python parses the header's parameters in quadratic time
_LINE_END = re.compile(rb"[ \t]*(\r?\n)")
# A boundary may contain the characters in the square brackets. If one of these characters follows `--`, then `--` is
# part of a longer boundary, and does not end the body.
_CLOSING = re.compile(rb"--(?![\w'()+,./:=?-])")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_EXTENDED_FILENAME = re.compile(r";\s*filename\*[\d*]*\s*=", re.IGNORECASE)
_FIRST_LINE = re.compile(rb"--([^\r\n]{1,70}?)[ \t]*\r?\n(?=content-)", re.IGNORECASE)
_UNENCODED = {"", "7bit", "8bit", "binary"}


class TooManyParts(Exception):
    """The body has too many parts, or too many lines that begin like a delimiter."""


@dataclass(frozen=True)
class Part:
    """One part of the body. ``filename`` is None if the part has no file name, and may be an empty string."""

    name: str
    filename: str | None
    media_type: str
    data: bytes


@dataclass(frozen=True)
class _Delimiter:
    begin: int  # where the line break before the delimiter starts
    end: int  # where the line break after the delimiter ends
    is_closing: bool


def guess_boundary(body: bytes) -> bytes:
    """Return the boundary if the body begins like multipart, or else empty bytes.

    Clients that set ``Content-Type`` by hand often leave out the boundary or name another type. No image format
    begins like multipart.
    """
    first = _FIRST_LINE.match(body)
    return first[1] if first else b""


async def split(body: bytes, boundary: bytes, max_parts: int) -> list[Part]:
    """Return the body's parts, without its preamble and its epilogue.

    Raise Malformed if the body is not valid multipart, and TooManyParts if it has more than ``max_parts`` parts.
    """
    if len(boundary) > _MAX_BOUNDARY_BYTES:
        raise Malformed(f"the multipart body's boundary is longer than {_MAX_BOUNDARY_BYTES} bytes")
    parts: list[Part] = []
    last: _Delimiter | None = None
    async for delimiter in _delimiters(body, b"--" + boundary, max_parts + 1):
        if last is not None:
            parts.append(await _part(body, last.end, max(last.end, delimiter.begin)))
        last = delimiter
    if last is None:
        raise Malformed("the multipart body does not have the boundary that its Content-Type names")
    if not last.is_closing:  # a truncated body may lack parts
        raise Malformed("the multipart body has no closing boundary, so it is truncated; send the whole body")
    return parts


async def _delimiters(body: bytes, line: bytes, max_count: int) -> AsyncGenerator[_Delimiter, None]:
    """Yield the delimiters. The first delimiter shows whether the client ends lines with CRLF or, wrongly, with LF."""
    searched, line_end, count = b"\n" + line, b"", 0
    at = -1 if body.startswith(line) else await _find(body, searched, 0)
    while at is not None:
        count += 1
        if count > max_count:
            raise TooManyParts
        after = at + len(searched)
        tail = body[after : after + _MAX_PADDING_BYTES]
        if not tail.strip(b" \t"):
            raise Malformed("in the multipart body, a boundary is followed by nothing, or by too much white space")
        is_crlf = at > 0 and body[at - 1 : at] == b"\r"
        ending, is_closing = _LINE_END.match(tail), _CLOSING.match(tail) is not None
        # A delimiter follows a line break of the client's kind, and ends with a line break or with `--`. Any other text
        # that equals the boundary is part of an image.
        if (ending or is_closing) and (is_crlf or line_end != b"\r\n"):
            line_end = line_end or (ending[1] if ending else b"")
            begin = at - 1 if is_crlf and line_end == b"\r\n" else at
            yield _Delimiter(begin, after + (ending.end() if ending else 0), is_closing)
            if is_closing:
                return
        at = await _find(body, searched, after)


async def _find(body: bytes, searched: bytes, start: int) -> int | None:
    while start < len(body):
        at = body.find(searched, start, start + _SLICE_BYTES + len(searched) - 1)
        if at >= 0:
            return at
        start += _SLICE_BYTES
        await asyncio.sleep(0)
    return None


async def _part(body: bytes, begin: int, end: int) -> Part:
    has_headers = body[begin : begin + 1] not in {b"\r", b"\n"}
    pattern = _BLANK_LINE if has_headers else _LINE_END
    # In an empty part, the line end before the delimiter may also serve as the blank line after the headers.
    blank = pattern.search(body, begin, min(end + 2, begin + _MAX_HEADERS_BYTES))
    if blank is None:
        raise Malformed(
            "a part of the multipart body has no blank line after its headers, or more than "
            f"{_MAX_HEADERS_BYTES >> 10} KiB of headers"
        )
    headers = HeaderParser().parsestr(body[begin : blank.start()].decode("latin-1"))
    data = body[min(blank.end(), end) : end]
    encoding = headers.get("content-transfer-encoding", "").strip().lower()
    if encoding == "base64":
        data = await _from_base64(data)
    elif encoding not in _UNENCODED:
        raise Malformed(f"Content-Transfer-Encoding: {encoding[:64]!r} is not supported; send binary or base64")
    name, filename = file_names(headers.get("content-disposition", ""))
    return Part(name, filename, headers.get_content_type(), data)


def file_names(disposition: str) -> tuple[str, str | None]:
    """Return the name and the file name of a part with this ``Content-Disposition``.

    Some clients send the file name only as ``filename*`` (RFC 5987).
    """
    if len(disposition) > _MAX_DISPOSITION_CHARS:
        raise Malformed(
            f"a part of the multipart body has a Content-Disposition of more than {_MAX_DISPOSITION_CHARS} characters"
        )
    _, parameters = parse_options_header(disposition)
    name, filename = _text(parameters.get(b"name", b"")), parameters.get(b"filename")
    if filename is not None:
        return name, _text(filename)
    if _EXTENDED_FILENAME.search(disposition) is None:
        return name, None
    return name, HeaderParser().parsestr(f"Content-Disposition: {disposition}").get_filename("?")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


async def _from_base64(data: bytes) -> bytes:
    text = data.translate(None, b"\r\n\t ")
    decoded = []
    try:
        for start in range(0, len(text), _SLICE_BYTES):
            decoded.append(binascii.a2b_base64(text[start : start + _SLICE_BYTES], strict_mode=True))
            await asyncio.sleep(0)
    except binascii.Error as exc:
        raise Malformed(
            "a part of the multipart body has the Content-Transfer-Encoding base64, but is not valid base64"
        ) from exc
    return b"".join(decoded)
