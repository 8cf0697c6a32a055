"""Exception handlers that turn every error into an ``ErrorResponse``, or into the form of the route's protocol."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from serve_app.api import parameters
from serve_app.api.access.protocols import Protocol
from serve_app.api.backend import Metrics
from serve_app.api.content_coding import SUPPORTED
from serve_app.errors import InvalidParameter, Malformed, NotFound, ServeAppError, Unauthorized, UnsupportedEncoding
from serve_app.schemas.errors import ErrorResponse

logger = logging.getLogger(__name__)

_NO_OBJECT = {"missing", "model_attributes_type", "model_type", "dict_type"}
NOT_AN_OBJECT = "the body is not a JSON object; send one, with the header Content-Type: application/json"


def request_id(request: HTTPConnection) -> str:
    """Return the ``X-Request-ID`` that the client sent or Serve generated. Serve also sends it in the response."""
    return request.headers.get("x-request-id", "")


def to_response(request: HTTPConnection, error: ServeAppError, status_code: int | None = None) -> JSONResponse:
    """Return the error as an HTTP response in JSON, in the form of the route's protocol.

    ``status_code`` is a status that the error's class does not know, such as 405.
    """
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UnsupportedEncoding):
        headers["Accept-Encoding"] = SUPPORTED  # RFC 9110, 15.5.16
    body = ErrorResponse.from_error(error, request_id(request))
    if request.scope["type"] == "websocket":  # Serve adds X-Request-ID only to HTTP responses
        headers["X-Request-ID"] = body.request_id
    protocol: Protocol | None = request.scope.get("state", {}).get("protocol")
    if protocol is not None:
        status, content = protocol.error(error, body.request_id)
        return JSONResponse(content, status_code or status, headers)
    return JSONResponse(body.model_dump(), status_code or error.status_code, headers)


def register(api: FastAPI, metrics: Metrics) -> None:
    """Register handlers that count every error, including bugs, and respond with an ``ErrorResponse``."""

    def respond(request: Request, error: ServeAppError, status_code: int | None = None) -> JSONResponse:
        metrics.refused(error)
        return to_response(request, error, status_code)

    @api.exception_handler(ServeAppError)
    async def ours(request: Request, exc: ServeAppError) -> JSONResponse:
        return respond(request, exc)

    @api.exception_handler(RequestValidationError)
    async def validation(request: Request, exc: RequestValidationError) -> JSONResponse:
        problems = exc.errors()
        if any(problem["type"] == "json_invalid" for problem in problems):
            return respond(request, Malformed("the body is not valid JSON"))
        # the body is missing, or its Content-Type is not JSON
        if any(problem["loc"] == ("body",) and problem["type"] in _NO_OBJECT for problem in problems):
            return respond(request, InvalidParameter(NOT_AN_OBJECT))
        return respond(request, InvalidParameter("; ".join(map(_problem, problems))))

    @api.exception_handler(HTTPException)
    async def http(request: Request, exc: HTTPException) -> JSONResponse:
        """Respond to Starlette's errors, such as an unknown route, a wrong method or a body that is not text."""
        headers = exc.headers or {}
        if exc.status_code == 404:
            protocol: Protocol | None = request.scope["state"]["protocol"]
            advice = f"check the path; {protocol.lacks} are not supported" if protocol else "/docs lists the routes"
            error: ServeAppError = NotFound(f"no such route; {advice}")
        elif exc.status_code == 405:
            error = Malformed(
                f"{request.method} is not supported by this route; use {headers.get('Allow', 'another method')}"
            )
        else:
            error = Malformed("the body is not valid JSON")
        response = respond(request, error, exc.status_code)
        response.headers.update(headers)
        return response

    @api.exception_handler(Exception)
    async def bug(request: Request, exc: Exception) -> JSONResponse:
        logger.error("request %s failed", request_id(request), exc_info=exc)
        return respond(request, ServeAppError("internal error"))


def _problem(problem: Mapping[str, Any]) -> str:
    """Return an error text. If it is about a parameter or a field, it begins with its name."""
    location = [str(part) for part in problem["loc"][1:]]
    text: str = problem["msg"].removeprefix("Value error, ")
    if not location:  # a validator of the whole body
        return text
    name = location[-1]
    if problem["type"] != "extra_forbidden":
        return f"{'.'.join(location)}: {text}"
    hint = f"; use {parameters.ALIASES[name]}" if name in parameters.ALIASES else ""
    return f"{'.'.join(location)}: there is no such field{hint}"
