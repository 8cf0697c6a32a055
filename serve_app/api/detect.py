"""The route ``POST /detect``, which takes images and returns detections."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request, Response

from serve_app.api import examples, parameters
from serve_app.api.access.middleware import check_permission, principal_of, tenant_of
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Backend, Jobs, Metrics
from serve_app.api.bodies import HOW_TO_SEND, looks_like_text, read_upload
from serve_app.api.errors import request_id
from serve_app.api.job_submission import headers_of, start_with_files
from serve_app.api.negotiation import prefers_jpeg
from serve_app.api.preferences import preferences_of
from serve_app.api.url_fetcher import Fetcher
from serve_app.config import AppArgs
from serve_app.errors import DeadlineExceeded, InvalidParameter, NotAnImage, ServeAppError
from serve_app.schemas.detect import DetectManyResponse, DetectQuery, DetectResponse, DetectSettings, PictureUrl
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.jobs import JobSpec, JobStatus, UploadSource
from serve_app.types import Answer, PictureRequest

logger = logging.getLogger(__name__)

_MAX_CONCURRENT_PICTURES = 8  # per request, so that a request with many images does not delay other requests

# The beginnings of image formats, by which the files of a job get their names. Others are JPEG.
_SUFFIXES = (
    (b"\x89PNG", "png"),
    (b"RIFF", "webp"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)

_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY = {
    "required": True,
    "description": "Send one image as the body, or one or more images as multipart parts named `file`. A multipart "
    "form may also have the query parameters as fields. If `outbound.detect_urls` is set, the body may be JSON with "
    "the URL of one image. `Content-Encoding` may be `gzip` or `deflate`.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "image/*": _PICTURE,
        "application/octet-stream": _PICTURE,
        "application/json": {"schema": PictureUrl.model_json_schema(), "example": examples.PICTURE_URL},
    },
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": DetectResponse | DetectManyResponse,
        "description": "For one image, the response is one result object. For several images, it is an object with "
        "`results`, in the order in which the images were sent. If the `Accept` header prefers `image/jpeg` to JSON "
        "and to `*/*`, the response is the image on which the boxes and what the model adds to them are drawn; this "
        "works for one image per request.",
        "content": {
            "application/json": {
                "examples": {
                    "one image": {"value": examples.DETECTED},
                    "several images": {"value": examples.DETECTED_MANY},
                    "a model that segments": {"value": examples.SEGMENTED},
                    "a model that segments, with mask=rle": {"value": examples.SEGMENTED_RLE},
                    "a model of poses": {"value": examples.POSED},
                    "a model of oriented boxes": {"value": examples.ROTATED},
                    "a model that classifies": {"value": examples.CLASSIFIED},
                }
            },
            "image/jpeg": _PICTURE,
        },
    },
    202: {
        "model": JobStatus,
        "description": "With `Prefer: respond-async`, the images become the items of a new job. The API key then also "
        "needs the permission `jobs`.",
        "content": {"application/json": {"example": examples.JOB_STATUS}},
    },
    400: {"model": ErrorResponse, "description": "`malformed`: the body is empty or is not valid multipart"},
    403: {
        "model": ErrorResponse,
        "description": "`forbidden`; or `urls_disabled`: fetching images by URL is disabled",
    },
    413: {"model": ErrorResponse, "description": "`too_large`: too many bytes, pixels or images"},
    415: {
        "model": ErrorResponse,
        "description": "`not_an_image`: the image's format is not supported; or `unsupported_encoding`",
    },
    422: {"model": ErrorResponse, "description": "`undecodable`, `invalid_parameter`, `invalid_url` or `unfetchable`"},
    500: {"model": ErrorResponse, "description": "`internal`: a bug in the server"},
    503: {"model": ErrorResponse, "description": "`overloaded` or `unavailable`, with `Retry-After`"},
    504: {"model": ErrorResponse, "description": "`deadline_exceeded`"},
    507: {
        "model": ErrorResponse,
        "description": "`no_space`: with `Prefer: respond-async`, `jobs.max_disk_gib` is reached",
    },
}


def router(backend: Backend, jobs: Jobs, metrics: Metrics, args: AppArgs) -> Router:
    """Return the detection route, which reads request bodies itself."""
    routes = Router(permission="detect", reads_own_body=True, tags=["detect"])
    outbound = args.outbound
    models = tuple(args.detectors())
    fetcher = Fetcher(outbound.guard(), args.limits.max_body_mib * 2**20) if outbound.detect_urls else None

    @routes.post(
        "/detect",
        summary="Detect objects in images",
        responses=_RESPONSES,
        response_model=None,
        openapi_extra={"parameters": parameters.openapi_parameters(), "requestBody": _REQUEST_BODY},
    )
    async def detect(request: Request) -> Response:
        """Detect objects in one or more images.

        Box coordinates are in pixels of the image as a viewer shows it, with its EXIF orientation applied. If a request
        has several images, each image gets its own result or error.
        """
        expires_at_s = time.monotonic() + args.limits.deadline_s
        items, annotate = request.query_params.multi_items(), prefers_jpeg(request.headers.getlist("accept"))
        tenant, query = tenant_of(request), parse_query(items)
        is_job = preferences_of(request).respond_async
        if is_job:
            check_permission(request, "jobs")
        else:
            backend.admit(tenant, query.model)
        try:
            async with asyncio.timeout(args.limits.deadline_s):
                upload = await read_upload(request, args.limits, fetcher, tenant)
                if upload.fields:
                    query = parse_query([*items, *upload.fields])
                if is_job:
                    return await start_job(request, query, upload.pictures)
                params, pictures = query.to_params(), upload.pictures
                many = upload.is_multipart and len(pictures) > 1
                if annotate and many:
                    raise InvalidParameter(
                        "Accept: image/jpeg works with one image per request; send the images one by one"
                    )
                slots = asyncio.Semaphore(_MAX_CONCURRENT_PICTURES)
                answers = await asyncio.gather(
                    *(
                        answer_one(PictureRequest(picture, params, 0.0, annotate, tenant), expires_at_s, slots)
                        for picture in pictures
                    )
                )
        except TimeoutError as exc:
            raise DeadlineExceeded(
                f"limits.deadline_s: no result within {args.limits.deadline_s:g} s; retry later or raise the limit"
            ) from exc
        identity = request_id(request)
        if not many or isinstance(answers[0], InvalidParameter):  # a wrong parameter affects every image
            answer = answers[0]
            if isinstance(answer, ServeAppError):
                raise answer
            if answer.annotated is not None:
                return Response(answer.annotated, media_type="image/jpeg")
            return _json(DetectResponse.from_answer(answer, identity))
        results: list[DetectResponse | ErrorResponse] = []
        for answer in answers:
            if isinstance(answer, ServeAppError):
                metrics.refused(answer)
                results.append(ErrorResponse.from_error(answer, identity))
            else:
                results.append(DetectResponse.from_answer(answer, identity))
        return _json(DetectManyResponse(results=results))

    def parse_query(items: Sequence[tuple[str, str]]) -> DetectQuery:
        """Return the parameters. Raise InvalidParameter if a parameter is invalid or the model does not exist."""
        query = parameters.parse(items)
        if query.model not in models:
            raise InvalidParameter(f"model: no model is named {query.model!r}; use one of {', '.join(models)}")
        return query

    async def start_job(request: Request, query: DetectQuery, pictures: list[bytes]) -> Response:
        """Start a job whose items are the images, and return its status."""
        # A job has no query, in which one value may be a list. Labels with commas need POST /jobs.
        classes = [part.strip() for value in query.classes for part in str(value).split(",")]
        settings = DetectSettings(**dict(query) | {"classes": classes})
        spec = JobSpec(source=UploadSource(type="upload"), detect=settings)
        files = {f"{number:04}.{_suffix(picture)}": picture for number, picture in enumerate(pictures)}
        status = await start_with_files(jobs, principal_of(request), spec, files)
        headers = headers_of(status) | {"Preference-Applied": "respond-async"}
        return Response(status.model_dump_json(), 202, headers, "application/json")

    async def answer_one(
        request: PictureRequest, expires_at_s: float, slots: asyncio.Semaphore
    ) -> Answer | ServeAppError:
        """Return the answer or the error of one image, so that an error does not affect the other images."""
        started_at_s = time.monotonic()
        try:
            async with slots:
                answer = await backend.detect(replace(request, time_left_s=expires_at_s - time.monotonic()))
        except NotAnImage as exc:
            return NotAnImage(f"{exc}; {HOW_TO_SEND}") if looks_like_text(request.data) else exc
        except ServeAppError as exc:
            return exc
        except Exception:
            logger.exception("an image's detection failed")
            return ServeAppError("internal error")
        return replace(answer, timing=replace(answer.timing, total_s=time.monotonic() - started_at_s))

    return routes


def _suffix(picture: bytes) -> str:
    return next((suffix for start, suffix in _SUFFIXES if picture.startswith(start)), "jpg")


def _json(body: DetectResponse | DetectManyResponse) -> Response:
    return Response(body.model_dump_json(), media_type="application/json")
