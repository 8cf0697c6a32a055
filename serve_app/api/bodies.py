"""Read images from a request's body, and enforce the limits while the body is read."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from serve_app.api.content_coding import inflater
from serve_app.api.errors import NOT_AN_OBJECT
from serve_app.api.multipart import Part, TooManyParts, guess_boundary, split
from serve_app.api.parameters import is_parameter, unknown_parameter
from serve_app.api.url_fetcher import Fetcher
from serve_app.config import LimitArgs
from serve_app.errors import DeadlineExceeded, InvalidParameter, Limit, Malformed, NotAnImage, TooLarge, UrlsDisabled
from serve_app.schemas.detect import PictureUrl

_MAX_JSON_BYTES = 2**14
_MAX_JSON_AROUND_PICTURES_BYTES = 2**20
_MAX_FIELDS = 16  # form fields in addition to the images
_MAX_FIELD_BYTES = 8192
# Only the first bytes of a body or part are checked for text, because the check blocks other requests.
_SNIFF_BYTES = 1024
_WHITE_SPACE = b" \t\r\n"
# Text has none of these control characters. Zero bytes are allowed, because text in UTF-16 has them.
_CONTROLS = re.compile(rb"[\x01-\x08\x0b\x0e-\x1f\x7f]")
_BOM = b"\xef\xbb\xbf"  # .NET and PowerShell write it before JSON
_FORM_WITHOUT_PARTS = re.compile(rb"[\w.\[\]%-]{1,64}=")
# The beginning of a data URL, or of a JPEG, PNG, WebP, GIF, TIFF or BMP in base64. Quotes may precede the data.
_BASE64 = re.compile(
    rb"[\s\"']*(?:data:[\w.+-]+/[\w.+-]+[;,]|(?:/9j/|iVBORw0KGgo|UklGR|R0lGOD|SUkqA|TU0AK|Qk[0-3])[\w+/=\s-]{64})"
)
HOW_TO_SEND = (
    "send the image's bytes as the body (curl --data-binary @a.jpg), or as a multipart part named 'file' "
    "(curl -F file=@a.jpg)"
)


@dataclass(frozen=True)
class Upload:
    """The images of a request, and the form fields sent with them."""

    pictures: list[bytes]
    fields: list[tuple[str, str]] = field(default_factory=list)
    is_multipart: bool = False


async def read_upload(request: Request, limits: LimitArgs, fetcher: Fetcher | None, tenant: str) -> Upload:
    """Return the images in the body. If ``fetcher`` is None, image URLs are refused.

    The first bytes of the body decide how the body is read, because many clients send a wrong default Content-Type.

    Raise Malformed, TooLarge, UnsupportedEncoding, NotAnImage, UrlsDisabled or InvalidParameter if the body is not
    acceptable, and the errors of ``Fetcher.fetch`` if a URL cannot be fetched.
    """
    body = await read_body(request, limits.max_body_mib * 2**20, "limits.max_body_mib")
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    boundary = parameters.get(b"boundary", b"") if kind.startswith(b"multipart/") else b""
    if kind.startswith(b"multipart/") or body.startswith(b"--"):
        boundary = boundary or guess_boundary(body)
        if boundary:
            return await _form(body, boundary, limits)
        if kind.startswith(b"multipart/"):
            raise Malformed(
                "the multipart body's Content-Type has no boundary parameter; let the HTTP client set the header"
            )
    if _is_json(body, kind):
        if _may_be_cross_site(request) and not _declares_json(request):
            raise InvalidParameter("a web page must send JSON with the header Content-Type: application/json")
        return Upload([await _fetch_picture(body, fetcher, tenant)])
    _check_is_binary(body, is_form=kind == b"application/x-www-form-urlencoded")
    return Upload([body])


def is_untyped_json(request: Request, body: bytes) -> bool:
    """Return whether the body is JSON without a JSON Content-Type. By default, ``curl -d`` sends such a body."""
    return not _declares_json(request) and _is_json(body, b"") and not _may_be_cross_site(request)


def _declares_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _may_be_cross_site(request: Request) -> bool:
    """Return whether another site's web page may have made a browser send the request.

    A browser sends a CORS preflight before it sends JSON to another site, but not before it sends ``text/plain``. A
    browser also adds ``Origin`` to every POST and PUT. A request with ``Origin`` must therefore send JSON with a JSON
    Content-Type.
    """
    return "origin" in request.headers


async def read_body(request: Request, max_bytes: int, limit: Limit) -> bytes:
    """Return the whole body, decompressed.

    Raise TooLarge, which names ``limit``, as soon as the compressed or the decompressed body exceeds ``max_bytes``.
    Raise Malformed if the body is incomplete or corrupt, and UnsupportedEncoding if it cannot be decompressed.
    """
    size_limit = f"{max_bytes >> 20} MiB" if max_bytes >> 20 else f"{max_bytes >> 10} KiB"
    advice = "send a smaller body or raise the limit" if limit == "limits.max_body_mib" else "send a smaller body"
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise TooLarge(
            f"{limit}: the body has {int(declared)} bytes, and the limit is {size_limit}; {advice}", limit=limit
        )
    coding = inflater(request.headers)
    chunks: list[bytes] = []
    received = size = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            for piece in (chunk,) if coding is None else coding.pieces(chunk):
                size += len(piece)
                if max(received, size) > max_bytes:
                    raise TooLarge(f"{limit}: the body is larger than the limit of {size_limit}; {advice}", limit=limit)
                chunks.append(piece)
                if coding is not None:
                    await asyncio.sleep(0)
    except ClientDisconnect as exc:
        raise Malformed("the client disconnected before the request body was complete") from exc
    if coding is not None:
        coding.finish()
    return b"".join(chunks)


def json_body_bytes(limits: LimitArgs) -> int:
    """Return the largest size of a JSON body with images in base64, whose limit applies to the decoded images."""
    return limits.max_body_mib * 2**20 * 4 // 3 + _MAX_JSON_AROUND_PICTURES_BYTES


async def read_in_time(request: Request, max_bytes: int, limit: Limit, deadline_s: float) -> bytes:
    """Return the whole body as ``read_body`` does. Raise DeadlineExceeded if it is not complete in time."""
    try:
        async with asyncio.timeout(deadline_s):
            return await read_body(request, max_bytes, limit)
    except TimeoutError as exc:
        raise DeadlineExceeded(
            f"limits.deadline_s: the body was not complete within {deadline_s:g} s; send it faster or raise the limit"
        ) from exc


def check_json(request: Request, body: bytes) -> bytes:
    """Return a body that the client declares as JSON, or that is JSON. Raise InvalidParameter if it is not."""
    if not _declares_json(request) and not is_untyped_json(request, body):
        raise InvalidParameter(NOT_AN_OBJECT)
    return body.removeprefix(_BOM)


def _is_json(body: bytes, kind: bytes) -> bool:
    """Return whether the body is JSON. No image format begins with ``{``."""
    text = body[:_MAX_JSON_BYTES].removeprefix(_BOM).lstrip(_WHITE_SPACE)
    return text.startswith(b"{") or (kind.endswith(b"json") and text[:1] in {b"", b"[", b'"'})


async def _fetch_picture(body: bytes, fetcher: Fetcher | None, tenant: str) -> bytes:
    """Fetch and return the image whose URL is in the JSON body."""
    if len(body) > _MAX_JSON_BYTES:
        raise TooLarge(
            f"json_body: a JSON body may have at most {_MAX_JSON_BYTES >> 10} KiB, because it contains only an image's "
            f"URL; to send the image itself, {HOW_TO_SEND}",
            limit="json_body",
        )
    try:
        url = PictureUrl.model_validate_json(body.removeprefix(_BOM)).url
    except ValidationError as exc:  # pydantic's error quotes the body, so we write our own
        if any(error["type"] == "json_invalid" for error in exc.errors()):
            raise Malformed(f"the body is not valid JSON; {HOW_TO_SEND}") from None
        raise InvalidParameter(
            f"a JSON body cannot contain an image; {HOW_TO_SEND}; to send an image's URL, send only "
            '{"url": "https://…"}'
        ) from None
    if url.lstrip().lower().startswith("data:"):
        raise InvalidParameter(f"url: data URLs are not supported; {HOW_TO_SEND}")
    if fetcher is None:
        raise UrlsDisabled(
            "outbound.detect_urls: fetching images by URL is disabled; send the image itself, or set "
            "SERVE_APP_DETECT_URLS=true"
        )
    return await fetcher.fetch(url, tenant)


def looks_like_text(data: bytes) -> bool:
    """Return whether the data begins like text in UTF-8, UTF-16 or an 8-bit encoding."""
    start = data[:_SNIFF_BYTES]
    return start.strip(b"\0") != b"" and _CONTROLS.search(start) is None


def _is_base64(data: bytes) -> bool:
    return _BASE64.match(data, 0, _SNIFF_BYTES) is not None


def _check_is_binary(body: bytes, *, is_form: bool = False) -> None:
    """Raise NotAnImage if the image is encoded as text, and Malformed if the client removed bytes from the image."""
    if _is_base64(body):
        raise NotAnImage(f"the image is base64-encoded; {HOW_TO_SEND}")
    if is_form and _FORM_WITHOUT_PARTS.match(body) and b"\0" not in body[:64]:
        raise NotAnImage(f"a form that is not multipart cannot contain an image; {HOW_TO_SEND}")
    is_long = is_form and len(body) > _MAX_FIELD_BYTES and not looks_like_text(body)
    if is_long and not any(byte in body for byte in (b"\n", b"\r", b"\0")):
        raise Malformed(
            "the body is incomplete, because curl -d removes line ends and zero bytes; use --data-binary @a.jpg"
        )


async def _form(body: bytes, boundary: bytes, limits: LimitArgs) -> Upload:
    max_pictures = limits.max_images_per_request
    try:
        parts = await split(body, boundary, max_pictures + _MAX_FIELDS)
    except TooManyParts:
        raise TooLarge(
            f"limits.max_images_per_request: the form has more than {max_pictures + _MAX_FIELDS} parts, which is the "
            f"limit for {max_pictures} images and {_MAX_FIELDS} fields; send fewer",
            limit="limits.max_images_per_request",
        ) from None
    pictures: list[Part] = []
    fields: list[Part] = []
    for part in parts:
        if part.data or part.filename:  # a part with neither data nor a file name is an empty form input
            (pictures if _is_picture(part) else fields).append(part)
    if len(pictures) > max_pictures:
        raise TooLarge(
            f"limits.max_images_per_request: the request has more than {max_pictures} images, which is the limit; "
            "send fewer or raise the limit",
            limit="limits.max_images_per_request",
        )
    if not pictures:
        raise Malformed(f"the multipart body contains no image; {HOW_TO_SEND}")
    if len(names := {part.name for part in pictures}) > 1:
        shown = ", ".join(repr(name[:64]) for name in sorted(names)[:4])
        raise Malformed(f"the images have different part names, {shown}; send each image as a part named 'file'")
    for part in pictures:
        _check_is_binary(part.data)
    return Upload([part.data for part in pictures], [_field(part) for part in fields], is_multipart=True)


def _is_picture(part: Part) -> bool:
    """Return whether a part is an image.

    A file name alone does not make a part an image. Some clients send an image without a file name. Others send a
    parameter with a file name, as Python's requests does for ``files={"conf": "0.3"}``.
    """
    if is_parameter(part.name) and len(part.data) <= _MAX_FIELD_BYTES and looks_like_text(part.data):
        return False
    if part.filename is not None or part.name == "file":
        return True
    if part.media_type.startswith("text/") or part.media_type.endswith("json"):
        return not is_parameter(part.name) and (b"\0" in part.data[:_SNIFF_BYTES] or _is_base64(part.data))
    return True


def _field(part: Part) -> tuple[str, str]:
    if not is_parameter(part.name):
        raise InvalidParameter(unknown_parameter(part.name))
    if len(part.data) > _MAX_FIELD_BYTES:
        raise Malformed(f"{part.name}: the field is longer than {_MAX_FIELD_BYTES >> 10} KiB; shorten it")
    return part.name, part.data.decode("utf-8", "replace").strip()
