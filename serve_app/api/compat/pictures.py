"""The way of an image from a request of another server's protocol to the model, which is the same for all protocols."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from fastapi import Request
from python_multipart.multipart import parse_options_header

from serve_app.api.access.middleware import tenant_of
from serve_app.api.backend import Backend, VideoRequest
from serve_app.api.bodies import read_body
from serve_app.api.compat.names import ModelNames
from serve_app.api.multipart import Part, TooManyParts, split
from serve_app.api.url_fetcher import Fetcher
from serve_app.config import AppArgs
from serve_app.errors import DeadlineExceeded, Malformed, ServeAppError, TooLarge, UrlsDisabled
from serve_app.schemas.models import ModelStatus
from serve_app.types import Answer, DetectParams, PictureRequest

_MAX_CONCURRENT_PICTURES = 8  # per request, as in POST /detect
_MAX_FIELDS = 32  # form fields in addition to the images
_MAX_FIELD_BYTES = 8192
_STATUS_TIMEOUT_S = 5.0
_VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
MIN_CONFIDENCE = 0.01  # as in POST /detect; a lower value means this value, because other servers accept 0


@dataclass(frozen=True)
class Form:
    """The images and videos in a multipart form, and its other fields."""

    pictures: list[bytes]
    videos: list[bytes] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


class Pictures:
    """The images of all protocols. They have the same limits, deadlines and tenants as those of ``POST /detect``."""

    def __init__(self, backend: Backend, args: AppArgs) -> None:
        self.names = ModelNames(args)
        self.limits = args.limits
        self._backend = backend
        self._max_bytes = args.limits.max_body_mib * 2**20
        outbound = args.outbound
        self._fetcher = Fetcher(outbound.guard(), self._max_bytes) if outbound.detect_urls else None
        self._statuses: tuple[float, dict[str, ModelStatus]] = (0.0, {})  # when they expire, and by name

    @asynccontextmanager
    async def admitted(self, request: Request, model: str) -> AsyncIterator[float]:
        """Admit a request before its body is read, and yield the time at which it expires, on the monotonic clock.

        ``model`` is a result of ``ModelNames.find``. Raise Overloaded if the model graph is full, and DeadlineExceeded
        if the block takes longer than ``limits.deadline_s``.
        """
        self._backend.admit(tenant_of(request), model)
        deadline_s = self.limits.deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                yield time.monotonic() + deadline_s
        except TimeoutError as exc:
            raise DeadlineExceeded(
                f"limits.deadline_s: no result within {deadline_s:g} s; retry later or raise the limit"
            ) from exc

    async def form(self, request: Request, part_name: str) -> Form:
        """Return the multipart body, whose images and videos are parts with the name ``part_name``.

        Raise Malformed or TooLarge if the body is not such a form or too large.
        """
        body = await read_body(request, self._max_bytes, "limits.max_body_mib")
        kind, parameters = parse_options_header(request.headers.get("content-type"))
        boundary = parameters.get(b"boundary")
        if not kind.startswith(b"multipart/") or not boundary:
            raise Malformed(f"the body is not a multipart form; send the image as a part named {part_name!r}")
        max_parts = self.limits.max_images_per_request + _MAX_FIELDS
        try:
            parts = await split(body, boundary, max_parts)
        except TooManyParts:
            raise TooLarge(
                f"limits.max_images_per_request: the form has more than {max_parts} parts; send fewer",
                limit="limits.max_images_per_request",
            ) from None
        files = [part for part in parts if part.name == part_name]
        pictures = [part.data for part in files if not _is_video(part)]
        fields = {part.name: part.data for part in parts if part.name != part_name}
        if too_long := [name for name, data in fields.items() if len(data) > _MAX_FIELD_BYTES]:
            raise Malformed(f"{too_long[0][:64]}: the field is longer than {_MAX_FIELD_BYTES >> 10} KiB; shorten it")
        self.check_count(len(pictures))
        videos = [part.data for part in files if _is_video(part)]
        return Form(pictures, videos, {name: data.decode("utf-8", "replace").strip() for name, data in fields.items()})

    async def detect_video(
        self, request: Request, video: bytes, params: DetectParams, expires_at_s: float, stride: int
    ) -> list[Answer]:
        """Return the answers for every ``stride``-th frame of a short video: see ``Backend.detect_video``."""
        left_s = expires_at_s - time.monotonic()
        return await self._backend.detect_video(VideoRequest(video, params, left_s, stride, tenant_of(request)))

    async def statuses(self) -> dict[str, ModelStatus]:
        """Return the status of each model, by the name that a ``DetectParams`` has for it.

        The statuses of loaded models are kept for a few seconds, because some protocols need them for each image.
        """
        expires_at_s, found = self._statuses
        if time.monotonic() >= expires_at_s:
            found = {status.name: status for status in await self._backend.models()}
            is_complete = all(status.task for status in found.values())
            self._statuses = time.monotonic() + (_STATUS_TIMEOUT_S if is_complete else 0.0), found
        return found

    async def from_base64(self, text: str) -> bytes:
        """Return an image that is sent as base64 or as a data URL.

        Raise Malformed if it is not base64, and TooLarge if the decoded image is larger than ``limits.max_body_mib``.
        """
        encoded = text.partition(",")[2] if text.startswith("data:") else text
        try:  # in a thread, because the image may be large
            picture = await asyncio.to_thread(lambda: base64.b64decode("".join(encoded.split()), validate=True))
        except ValueError as exc:
            raise Malformed("the image is not valid base64; encode the image's bytes as base64") from exc
        self.check_size([picture])
        return picture

    async def fetch(self, request: Request, url: str) -> bytes:
        """Return the image at a URL. Raise UrlsDisabled, or the errors of ``Fetcher.fetch``."""
        if self._fetcher is None:
            raise UrlsDisabled(
                "outbound.detect_urls: fetching images by URL is disabled; send the image itself, or set "
                "SERVE_APP_DETECT_URLS=true"
            )
        return await self._fetcher.fetch(url, tenant_of(request))

    def check_count(self, count: int) -> None:
        """Raise TooLarge if a request has more images than ``limits.max_images_per_request``."""
        if count > self.limits.max_images_per_request:
            raise TooLarge(
                f"limits.max_images_per_request: the request has {count} images, and the limit is "
                f"{self.limits.max_images_per_request}; send fewer or raise the limit",
                limit="limits.max_images_per_request",
            )

    def check_size(self, pictures: Sequence[bytes]) -> None:
        """Raise TooLarge if the decoded images together are larger than ``limits.max_body_mib``."""
        if sum(map(len, pictures)) > self._max_bytes:
            raise TooLarge(
                f"limits.max_body_mib: the request's images are larger than the limit of {self.limits.max_body_mib} "
                "MiB; send smaller images or raise the limit",
                limit="limits.max_body_mib",
            )

    async def detect(
        self, request: Request, pictures: Sequence[bytes], params: DetectParams, expires_at_s: float, annotate: bool
    ) -> list[Answer]:
        """Return the answers for all images. Raise the first image's error if the model cannot answer them all."""
        slots, tenant = asyncio.Semaphore(_MAX_CONCURRENT_PICTURES), tenant_of(request)

        async def answer(picture: bytes) -> Answer | ServeAppError:
            started_at_s = time.monotonic()
            try:
                async with slots:
                    left_s = expires_at_s - time.monotonic()
                    found = await self._backend.detect(PictureRequest(picture, params, left_s, annotate, tenant))
            except ServeAppError as exc:
                return exc
            return replace(found, timing=replace(found.timing, total_s=time.monotonic() - started_at_s))

        answers: list[Answer] = []
        for one in await asyncio.gather(*map(answer, pictures)):
            if isinstance(one, ServeAppError):
                raise one
            answers.append(one)
        return answers


def _is_video(part: Part) -> bool:
    """Return whether the client says that a part is a video. Some clients name only the file."""
    return part.media_type.startswith("video/") or (part.filename or "").lower().endswith(_VIDEO_SUFFIXES)


def checked_number(name: str, text: str, lowest: float, highest: float) -> float:
    """Return the number in a parameter. Raise Malformed if it is not a number or is out of range."""
    value = _number(text)
    if not lowest <= value <= highest:
        raise Malformed(f"{name}: send a number from {lowest:g} to {highest:g}")
    return value


def checked_count(name: str, text: str, lowest: int, highest: int) -> int:
    """Return the whole number in a parameter. Raise Malformed if it is not a whole number or is out of range."""
    value = _number(text)
    if not (lowest <= value <= highest and value.is_integer()):
        raise Malformed(f"{name}: send a whole number from {lowest} to {highest}")
    return int(value)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
