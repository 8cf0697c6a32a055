"""Read the encoded pictures in a request's body, within limits that hold while it is read."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from serve_app.api.content_coding import inflater
from serve_app.api.multipart import Part, TooManyParts, guess_boundary, split
from serve_app.api.parameters import is_parameter, no_such
from serve_app.api.url_fetcher import Fetcher
from serve_app.config import LimitArgs
from serve_app.errors import InvalidParameter, Limit, Malformed, NotAnImage, TooLarge, UrlsDisabled
from serve_app.schemas.detect import PictureUrl

_MAX_JSON_BYTES = 2**14
_MAX_FIELDS = 16  # of a form, beside its pictures
_MAX_FIELD_BYTES = 8192
_LOOKED_AT_BYTES = 1024  # of a body or a part, to see whether it is text: other requests wait meanwhile
_WHITE_SPACE = b" \t\r\n"
_CONTROLS = re.compile(rb"[\x01-\x08\x0b\x0e-\x1f\x7f]")  # no text has them, and UTF-16 has zeros
_BOM = b"\xef\xbb\xbf"  # .NET and PowerShell put it before JSON
_FORM_WITHOUT_PARTS = re.compile(rb"[\w.\[\]%-]{1,64}=")
# How the base64 of a JPEG, PNG, WebP, GIF, TIFF and BMP begins. A data URL may have quotes around it.
_BASE64 = re.compile(
    rb"[\s\"']*(?:data:[\w.+-]+/[\w.+-]+[;,]|(?:/9j/|iVBORw0KGgo|UklGR|R0lGOD|SUkqA|TU0AK|Qk[0-3])[\w+/=\s-]{64})"
)
HOW_TO_SEND = (
    "send the picture's own bytes as the body (curl --data-binary @a.jpg), or as a multipart part named 'file' "
    "(curl -F file=@a.jpg)"
)


@dataclass(frozen=True)
class Upload:
    """What came with a request: pictures, and the fields of a form beside them."""

    pictures: list[bytes]
    fields: list[tuple[str, str]] = field(default_factory=list)
    is_multipart: bool = False


async def read_upload(request: Request, limits: LimitArgs, fetcher: Fetcher | None, tenant: str) -> Upload:
    """Return the pictures of the body. Without a fetcher, none is fetched by its url.

    What the body is, is seen from its first bytes: many clients send a Content-Type that they did not choose.

    Raises Malformed, TooLarge, UnsupportedEncoding, NotAnImage, UrlsDisabled, InvalidParameter, and what
    ``Fetcher.fetch`` raises.
    """
    body = await read_body(request, limits.max_body_mib * 2**20, "limits.max_body_mib")
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    boundary = parameters.get(b"boundary", b"") if kind.startswith(b"multipart/") else b""
    if kind.startswith(b"multipart/") or body.startswith(b"--"):
        boundary = boundary or guess_boundary(body)
        if boundary:
            return await _form(body, boundary, limits)
        if kind.startswith(b"multipart/"):
            raise Malformed("the multipart body's Content-Type names no boundary; let the HTTP client set the header")
    if _is_json(body, kind):
        if _may_be_of_a_page(request) and not _names_json(request):
            raise InvalidParameter("JSON needs the header Content-Type: application/json where a page sends it")
        return Upload([await _fetched(body, fetcher, tenant)])
    _check_is_binary(body, is_form=kind == b"application/x-www-form-urlencoded")
    return Upload([body])


def is_untyped_json(request: Request, body: bytes) -> bool:
    """Return whether the body is JSON that its client calls something else, as ``curl -d`` does."""
    return not _names_json(request) and _is_json(body, b"") and not _may_be_of_a_page(request)


def _names_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _may_be_of_a_page(request: Request) -> bool:
    """Return whether a browser may have sent the request for a page elsewhere. It asks us before it sends JSON, and not
    before it sends other types: what has an ``Origin``, as each of its POST and PUT has, must name its type."""
    return "origin" in request.headers


async def read_body(request: Request, max_bytes: int, limit: Limit) -> bytes:
    """Return the whole body, inflated. Raises TooLarge, which names ``limit``, as soon as the body is too large, as it
    comes or inflated, and Malformed, UnsupportedEncoding."""
    size_limit = f"{max_bytes >> 20} MiB" if max_bytes >> 20 else f"{max_bytes >> 10} KiB"
    advice = "send less or raise it" if limit == "limits.max_body_mib" else "send less"
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise TooLarge(
            f"{limit}: the body has {int(declared)} bytes, and the limit is {size_limit}; {advice}", limit=limit
        )
    coding = inflater(request.headers)
    chunks: list[bytes] = []
    came = size = 0
    try:
        async for chunk in request.stream():
            came += len(chunk)
            for piece in (chunk,) if coding is None else coding.pieces(chunk):
                size += len(piece)
                if max(came, size) > max_bytes:
                    raise TooLarge(f"{limit}: the body is larger than the limit of {size_limit}; {advice}", limit=limit)
                chunks.append(piece)
                if coding is not None:
                    await asyncio.sleep(0)
    except ClientDisconnect as exc:
        raise Malformed("the client went away before its body was complete") from exc
    if coding is not None:
        coding.finish()
    return b"".join(chunks)


def _is_json(body: bytes, kind: bytes) -> bool:
    """Return whether the body is JSON: no picture begins as an object does, and JSON begins as no picture does."""
    text = body[:_MAX_JSON_BYTES].removeprefix(_BOM).lstrip(_WHITE_SPACE)
    return text.startswith(b"{") or (kind.endswith(b"json") and text[:1] in {b"", b"[", b'"'})


async def _fetched(body: bytes, fetcher: Fetcher | None, tenant: str) -> bytes:
    """Return the picture whose url the JSON names."""
    if len(body) > _MAX_JSON_BYTES:
        raise TooLarge(
            f"json_body: JSON with a picture's url has at most {_MAX_JSON_BYTES >> 10} KiB, and JSON holds no picture; "
            f"{HOW_TO_SEND}",
            limit="json_body",
        )
    try:
        url = PictureUrl.model_validate_json(body.removeprefix(_BOM)).url
    except ValidationError as exc:  # its text holds the body
        if any(error["type"] == "json_invalid" for error in exc.errors()):
            raise Malformed(f"the body is no valid JSON; {HOW_TO_SEND}") from None
        raise InvalidParameter(
            f'JSON holds no picture; {HOW_TO_SEND}; the url of a picture is sent as {{"url": "https://…"}} alone'
        ) from None
    if url.lstrip().lower().startswith("data:"):
        raise InvalidParameter(f"url: a data URL is not read; {HOW_TO_SEND}")
    if fetcher is None:
        raise UrlsDisabled("pictures are not fetched by url here: send the picture, or set SERVE_APP_DETECT_URLS")
    return await fetcher.fetch(url, tenant)


def looks_like_text(data: bytes) -> bool:
    """Return whether the data begins as text does, in UTF-8, UTF-16 or an encoding of 8 bits."""
    start = data[:_LOOKED_AT_BYTES]
    return start.strip(b"\0") != b"" and _CONTROLS.search(start) is None


def _is_base64(data: bytes) -> bool:
    return _BASE64.match(data, 0, _LOOKED_AT_BYTES) is not None


def _check_is_binary(body: bytes, *, is_form: bool = False) -> None:
    """Raise NotAnImage for a picture that is written as text, and Malformed for one that a client cut up."""
    if _is_base64(body):
        raise NotAnImage(f"the picture is written as base64; {HOW_TO_SEND}")
    if is_form and _FORM_WITHOUT_PARTS.match(body) and b"\0" not in body[:64]:
        raise NotAnImage(f"a form that is not multipart holds no picture; {HOW_TO_SEND}")
    is_long = is_form and len(body) > _MAX_FIELD_BYTES and not looks_like_text(body)
    if is_long and not any(byte in body for byte in (b"\n", b"\r", b"\0")):
        raise Malformed("curl's -d leaves line ends and zeros out of a file; use --data-binary @a.jpg")


async def _form(body: bytes, boundary: bytes, limits: LimitArgs) -> Upload:
    most = limits.max_images_per_request
    try:
        parts = await split(body, boundary, most + _MAX_FIELDS)
    except TooManyParts:
        raise TooLarge(
            f"limits.max_images_per_request: the form has more than {most + _MAX_FIELDS} parts, and it may have {most} "
            f"pictures and {_MAX_FIELDS} fields; send fewer",
            limit="limits.max_images_per_request",
        ) from None
    pictures: list[Part] = []
    fields: list[Part] = []
    for part in parts:
        if part.data or part.filename:  # else an input that was left empty
            (pictures if _is_picture(part) else fields).append(part)
    if len(pictures) > most:
        raise TooLarge(
            f"limits.max_images_per_request: the request has more than {most} pictures, which is the limit; send fewer "
            "or raise it",
            limit="limits.max_images_per_request",
        )
    if not pictures:
        raise Malformed(f"the multipart body has no picture; {HOW_TO_SEND}")
    if len(names := {part.name for part in pictures}) > 1:
        shown = ", ".join(repr(name[:64]) for name in sorted(names)[:4])
        raise Malformed(f"the pictures have several names, {shown}; send each as a part named 'file'")
    for part in pictures:
        _check_is_binary(part.data)
    return Upload([part.data for part in pictures], [_field(part) for part in fields], is_multipart=True)


def _is_picture(part: Part) -> bool:
    """Return whether a part is a picture. Clients leave the name of a file out where they send bytes, and send a
    parameter as a file: Python's requests does so for ``files={"conf": "0.3"}``."""
    if is_parameter(part.name) and len(part.data) <= _MAX_FIELD_BYTES and looks_like_text(part.data):
        return False
    if part.filename is not None or part.name == "file":
        return True
    if part.media_type.startswith("text/") or part.media_type.endswith("json"):
        return not is_parameter(part.name) and (b"\0" in part.data[:_LOOKED_AT_BYTES] or _is_base64(part.data))
    return True


def _field(part: Part) -> tuple[str, str]:
    if not is_parameter(part.name):
        raise InvalidParameter(no_such(part.name))
    if len(part.data) > _MAX_FIELD_BYTES:
        raise Malformed(f"{part.name}: the field is longer than {_MAX_FIELD_BYTES >> 10} KiB")
    return part.name, part.data.decode("utf-8", "replace").strip()
