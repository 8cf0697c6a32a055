"""Turn every error into an answer of one form: ``ErrorResponse``."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from serve_app.api.backend import Metrics
from serve_app.errors import InvalidParameter, Malformed, NotFound, ServeAppError, Unauthorized
from serve_app.schemas.errors import ErrorResponse

logger = logging.getLogger(__name__)


def request_id(request: HTTPConnection) -> str:
    """Return the client's ``X-Request-ID`` or the one that Serve made; Serve echoes it in the answer's header."""
    return request.headers.get("x-request-id", "")


def to_response(request: HTTPConnection, error: ServeAppError, status_code: int | None = None) -> JSONResponse:
    """Return the error as an answer."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    body = ErrorResponse.from_error(error, request_id(request))
    if request.scope["type"] == "websocket":  # Serve echoes it to HTTP requests alone
        headers["X-Request-ID"] = body.request_id
    return JSONResponse(body.model_dump(), status_code or error.status_code, headers)


def register(api: FastAPI, metrics: Metrics) -> None:
    """Answer our own errors, FastAPI's, Starlette's and bugs in one form, and count each."""

    def answer(request: Request, error: ServeAppError, status_code: int | None = None) -> JSONResponse:
        metrics.refused(error)
        return to_response(request, error, status_code)

    @api.exception_handler(ServeAppError)
    async def ours(request: Request, exc: ServeAppError) -> JSONResponse:
        return answer(request, exc)

    @api.exception_handler(RequestValidationError)
    async def validation(request: Request, exc: RequestValidationError) -> JSONResponse:
        problems = (f"{'.'.join(str(part) for part in e['loc'][1:])}: {e['msg']}" for e in exc.errors())
        return answer(request, InvalidParameter("; ".join(problems)))

    @api.exception_handler(HTTPException)
    async def http(request: Request, exc: HTTPException) -> JSONResponse:
        """Starlette's own refusals: no such route, wrong method."""
        error = NotFound("no such route") if exc.status_code == 404 else Malformed(str(exc.detail))
        response = answer(request, error, exc.status_code)
        response.headers.update(exc.headers or {})
        return response

    @api.exception_handler(Exception)
    async def bug(request: Request, exc: Exception) -> JSONResponse:
        logger.error("request %s failed", request_id(request), exc_info=exc)
        return answer(request, ServeAppError("internal error"))
