"""Convert the server's responses to results and errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from serve_app.client.errors import ApiError, ConflictError, NotFoundError
from serve_app.client.results import DetectResult
from serve_app.errors import ServeAppError
from serve_app.types import Json, Snapshot

M = TypeVar("M", bound=BaseModel)

# Error codes that concern one image, not the whole request.
_PICTURE_ERROR_CODES = {"not_an_image", "undecodable", "too_large", "poison"}


def check(response: httpx.Response) -> None:
    """Raise ApiError unless the response is a success. The caller must read the response's body first."""
    if not response.is_success:
        raise _error_of(response)


def model_of(kind: type[M]) -> Callable[[httpx.Response], M]:
    """Return a function that parses a response as ``kind``, or raises ApiError."""

    def read(response: httpx.Response) -> M:
        check(response)
        return validated(kind, response.content)

    return read


def check_deleted(response: httpx.Response) -> None:
    """Raise ApiError unless the response has status 204, which confirms a deletion."""
    check(response)
    if response.status_code != 204:
        raise unexpected(
            f"the server responded with status {response.status_code} instead of 204", response.status_code
        )


def check_type(response: httpx.Response, expected: str) -> None:
    """Raise ApiError unless the response is a success with this content type."""
    check(response)
    found = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if found != expected:
        raise unexpected(
            f"the response has the content type {found or 'none'} instead of {expected}", response.status_code
        )


def jpeg_of(response: httpx.Response) -> bytes:
    """Return the bytes of a JPEG. Raise ApiError if the response is not a JPEG."""
    check_type(response, "image/jpeg")
    return response.content


def frame_of(response: httpx.Response) -> Snapshot:
    """Return a frame and its id. Raise ApiError if the response lacks the frame or the id."""
    picture, frame_id = jpeg_of(response), response.headers.get("X-Frame-Id", "")
    try:
        return Snapshot(int(frame_id), picture)
    except ValueError as exc:
        raise unexpected("the response has no number in its header X-Frame-Id", response.status_code) from exc


def results_of(response: httpx.Response, count: int) -> list[DetectResult | ApiError]:
    """Return the results for ``count`` images. Raise ApiError if the whole request was refused.

    For a request with one image, the server returns a single result instead of a list.
    """
    try:
        check(response)
    except ApiError as exc:
        if count == 1 and exc.code in _PICTURE_ERROR_CODES:
            return [exc]
        raise
    body = _json(response.content)
    if "results" not in body:
        return [validated(DetectResult, response.content)]
    found = body["results"]
    if not isinstance(found, list) or len(found) != count or not all(isinstance(one, dict) for one in found):
        raise unexpected(f"the response does not have one result for each of {count} images", response.status_code)
    return [_error_of_picture(one) if "code" in one else validated(DetectResult, json.dumps(one)) for one in found]


def unexpected(detail: str, status_code: int = 200) -> ApiError:
    """Return the error for a successful response that does not come from a Sightline server."""
    return ApiError(f"{detail}; check the url", "unexpected_answer", status_code)


def validated(kind: type[M], data: str | bytes) -> M:
    """Parse the server's JSON as ``kind``. Raise ApiError if the JSON does not match."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        raise unexpected(f"the response is not a {kind.__name__} that this version of the client knows") from exc


def _json(data: bytes) -> Json:
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _error_of(response: httpx.Response) -> ApiError:
    """Return the error for a failed response from the server, or from a proxy in front of the server."""
    body, status_code = _json(response.content), response.status_code
    retry_after = response.headers.get("Retry-After", "")
    kind = {404: NotFoundError, 409: ConflictError}.get(status_code, ApiError)
    return kind(
        str(body.get("detail") or f"the server responded with status {status_code}"),
        str(body.get("code") or f"http_{status_code}"),
        status_code,
        int(retry_after) if retry_after.isdecimal() else None,
        body.get("limit"),
        str(body.get("request_id") or response.headers.get("X-Request-ID", "")),
    )


def _error_of_picture(body: Json) -> ApiError:
    """Return the error of one of several images. The status code and ``retry_after_s`` follow from the error's code."""
    code = str(body["code"])
    kind = _KINDS.get(code, ServeAppError)
    detail, request_id = str(body.get("detail") or code), str(body.get("request_id") or "")
    return ApiError(detail, code, kind.status_code, kind.retry_after_s, body.get("limit"), request_id)


def _kinds(kind: type[ServeAppError]) -> dict[str, type[ServeAppError]]:
    found: dict[str, type[ServeAppError]] = {}
    for child in kind.__subclasses__():
        found |= _kinds(child)
    return found | {kind.code: kind}


_KINDS = _kinds(ServeAppError)  # by error code; a client cannot distinguish classes with the same code
