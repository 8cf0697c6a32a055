"""``POST /detect``: pictures in, detections out."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from serve_app.api.bodies import read_pictures
from serve_app.api.errors import request_id
from serve_app.api.pipeline import Pipeline
from serve_app.config import AppArgs
from serve_app.errors import DeadlineExceeded, InvalidParameter, ServeAppError
from serve_app.schemas import DetectManyResponse, DetectQuery, DetectResponse, ErrorResponse
from serve_app.types import Answer, DetectOptions

_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY = {
    "required": True,
    "description": "One picture as the body, or one or many as multipart parts named `file`.",
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
    },
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": DetectResponse | DetectManyResponse,
        "description": "One picture answers an object; several answer `results`, in order. "
        "`Accept: image/jpeg` answers one picture with its boxes drawn.",
        "content": {"image/jpeg": _PICTURE},
    },
    400: {"model": ErrorResponse, "description": "`malformed`: an empty body, or no valid multipart"},
    413: {"model": ErrorResponse, "description": "`too_large`: too many bytes, pixels or pictures"},
    415: {"model": ErrorResponse, "description": "`not_an_image`: no picture format that is read here"},
    422: {"model": ErrorResponse, "description": "`undecodable` or `invalid_parameter`"},
    503: {"model": ErrorResponse, "description": "`overloaded` or `unavailable`, with `Retry-After`"},
    504: {"model": ErrorResponse, "description": "`deadline_exceeded`"},
}


def router(pipeline: Pipeline, args: AppArgs) -> APIRouter:
    """The detection route over a pipeline."""
    routes = APIRouter(tags=["detect"])

    @routes.post("/detect", responses=_RESPONSES, response_model=None, openapi_extra={"requestBody": _REQUEST_BODY})
    async def detect(request: Request, query: Annotated[DetectQuery, Query()]) -> Response:
        """Detect objects in one picture or several."""
        pictures, is_multipart = await read_pictures(request, args.limits)
        started_at_s = time.monotonic()
        annotate = "image/jpeg" in request.headers.get("accept", "")
        many = is_multipart and len(pictures) > 1
        if annotate and many:
            raise InvalidParameter("an annotated picture is answered for one picture at a time")
        deadline_s = args.limits.deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                options = query.to_options(await pipeline.model())
                answers = await asyncio.gather(
                    *(_detect_one(picture, options, annotate, started_at_s) for picture in pictures)
                )
        except TimeoutError as exc:
            raise DeadlineExceeded(f"no answer within {deadline_s:g} s") from exc
        identity = request_id(request)
        if many:
            results = [
                ErrorResponse.from_error(answer, identity)
                if isinstance(answer, ServeAppError)
                else DetectResponse.from_answer(answer, identity)
                for answer in answers
            ]
            return _json(DetectManyResponse(results=results))
        answer = answers[0]
        if isinstance(answer, ServeAppError):
            raise answer
        if answer.annotated is not None:
            return Response(answer.annotated, media_type="image/jpeg")
        return _json(DetectResponse.from_answer(answer, identity))

    async def _detect_one(
        picture: bytes, options: DetectOptions, annotate: bool, started_at_s: float
    ) -> Answer | ServeAppError:
        time_left_s = args.limits.deadline_s - (time.monotonic() - started_at_s)
        try:
            answer = await pipeline.detect(picture, options, annotate=annotate, time_left_s=time_left_s)
        except ServeAppError as exc:
            return exc
        answer.timing_s["total"] = time.monotonic() - started_at_s
        return answer

    return routes


def _json(body: DetectResponse | DetectManyResponse) -> Response:
    return Response(body.model_dump_json(), media_type="application/json")
