"""The one place where an error becomes an answer: every one has the form of ``ErrorResponse``."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serve_app.errors import InvalidParameter, Malformed, NotFound, ServeAppError
from serve_app.schemas import ErrorResponse

logger = logging.getLogger("ray.serve")


def request_id(request: Request) -> str:
    """The client's ``X-Request-ID`` or the one that Serve made; Serve echoes it in the answer's header."""
    return request.headers.get("x-request-id", "")


def register(api: FastAPI) -> None:
    """Answer our own errors, FastAPI's, Starlette's and bugs in one form."""
    api.add_exception_handler(ServeAppError, _ours)
    api.add_exception_handler(RequestValidationError, _validation)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(Exception, _bug)


def _answer(request: Request, error: ServeAppError, status_code: int | None = None) -> JSONResponse:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    body = ErrorResponse.from_error(error, request_id(request))
    return JSONResponse(body.model_dump(), status_code or error.status_code, headers)


async def _ours(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, ServeAppError)
    return _answer(request, exc)


async def _validation(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    problems = (f"{'.'.join(str(part) for part in e['loc'][1:])}: {e['msg']}" for e in exc.errors())
    return _answer(request, InvalidParameter("; ".join(problems)))


async def _http(request: Request, exc: Exception) -> JSONResponse:
    """Starlette's own refusals: no such route, wrong method."""
    assert isinstance(exc, HTTPException)
    error = NotFound("no such route") if exc.status_code == 404 else Malformed(str(exc.detail))
    answer = _answer(request, error, exc.status_code)
    answer.headers.update(exc.headers or {})
    return answer


async def _bug(request: Request, exc: Exception) -> JSONResponse:
    logger.error("request %s failed", request_id(request), exc_info=exc)
    return _answer(request, ServeAppError("internal error"))
