"""The routes ``/session``, with which the page at ``/console`` signs in with an API key, and signs out."""

from __future__ import annotations

from typing import Any, get_args

from aiolimiter import AsyncLimiter
from fastapi import Request, Response
from pydantic import ValidationError

from serve_app.api import examples
from serve_app.api.access.keys import Key, Permission, find_key
from serve_app.api.access.local import is_loopback_host
from serve_app.api.access.middleware import caller_of
from serve_app.api.access.pages import check_sign_in
from serve_app.api.access.permissions import Router
from serve_app.api.access.reload import KeyReloader
from serve_app.api.access.sessions import MAX_AGE_S, Session, Sessions, cookie_name
from serve_app.api.bodies import check_json, read_in_time
from serve_app.errors import InvalidParameter, RateLimited, Unauthorized
from serve_app.overload.limits import ConcurrencyLimit
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.session import SessionStatus, SignIn

MAX_SIGN_INS = 64  # in flight per Ingress replica; their bodies are read before their keys are known
MAX_FAILED_PER_S = 10  # per Ingress replica
_MAX_BODY_BYTES = 4096
_TIMEOUT_S = 10.0
_CONTENT = {"application/json": {"schema": {"$ref": "#/components/schemas/SignIn"}, "example": examples.SIGN_IN}}
_NO_STORE = {"Cache-Control": "no-store"}
_SIGN_IN_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorResponse, "description": "`unauthorized`: the API key is unknown or has expired"},
    403: {"model": ErrorResponse, "description": "`forbidden`: a page of another site has made the request"},
    413: {"model": ErrorResponse, "description": "`too_large`: the body is larger than 4 KiB"},
    422: {"model": ErrorResponse, "description": "`invalid_parameter`: the body has no `key`"},
    429: {"model": ErrorResponse, "description": "`rate_limited`: too many sign-ins have failed, with `Retry-After`"},
    503: {"model": ErrorResponse, "description": "`overloaded` or `unavailable`, with `Retry-After`"},
}


def sign_in_router(sessions: Sessions, keys: KeyReloader | None) -> Router:
    """Return the route that makes a session. It needs no API key in a header, because the key is in the body."""
    routes = Router(permission=None, reads_own_body=True, tags=["session"])
    refusal = f"{MAX_SIGN_INS} clients are signing in, which is the limit; retry later"
    limit = ConcurrencyLimit(MAX_SIGN_INS, "sign_ins", refusal)
    failed = AsyncLimiter(MAX_FAILED_PER_S, 1.0)

    @routes.post(
        "/session",
        summary="Sign in",
        responses=examples.of_response(examples.SESSION) | _SIGN_IN_ERRORS,
        openapi_extra={"requestBody": {"required": True, "content": _CONTENT}},
    )
    async def sign_in(request: Request, response: Response) -> SessionStatus:
        """Check an API key, and set a cookie with which a browser can use it for eight hours.

        The cookie ends with its key. Requests with the cookie need the header `X-CSRF-Token`, unless they are `GET`.
        If the server has no API keys, nothing needs to be signed in, and no cookie is set.
        """
        check_sign_in(request)
        response.headers.update(_NO_STORE)
        with limit.one():
            body = check_json(request, await read_in_time(request, _MAX_BODY_BYTES, "json_body", _TIMEOUT_S))
        try:
            presented = SignIn.model_validate_json(body).key.get_secret_value()
        except ValidationError:  # its text quotes the body
            raise InvalidParameter('key: send an API key as {"key": "…"}, and no other field') from None
        if keys is None:
            return _status(None)
        await keys.refresh()
        key = find_key(keys.keys, presented)
        if key is None:
            # Keys are too long to be guessed. The limit keeps failed sign-ins from using up CPU time, and a correct key
            # passes, so that nobody can lock out others.
            if not failed.has_capacity():
                raise RateLimited(
                    f"failed_sign_ins: {MAX_FAILED_PER_S} sign-ins per second may fail; retry later",
                    limit="failed_sign_ins",
                )
            await failed.acquire()
            raise Unauthorized("the API key is unknown or has expired; use a valid one")
        session, cookie = await sessions.open(key)
        response.set_cookie(
            cookie_name(request),
            cookie,
            max_age=MAX_AGE_S,
            path="/",
            secure=_is_secure(request),
            httponly=True,
            samesite="strict",
        )
        return _status(key, session)

    return routes


def router() -> Router:
    """Return the routes that show and end a session."""
    routes = Router(permission="any", tags=["session"])

    @routes.head("/session", include_in_schema=False)
    @routes.get("/session", summary="Show who is signed in", responses=examples.of_response(examples.SESSION))
    async def show_session(request: Request, response: Response) -> SessionStatus:
        """Return the name and the permissions of the request's API key, and the token of its session if it has one."""
        response.headers.update(_NO_STORE)
        caller = caller_of(request)
        return _status(caller.key, caller.session)

    @routes.delete("/session", summary="Sign out", status_code=204)
    async def sign_out(request: Request, response: Response) -> None:
        """Delete the session's cookie from the browser."""
        response.delete_cookie(
            cookie_name(request), path="/", secure=_is_secure(request), httponly=True, samesite="strict"
        )

    return routes


def _is_secure(request: Request) -> bool:
    """Return whether the cookie needs https. Behind a proxy, ``Origin`` may be the only sign of https."""
    return request.headers.get("origin", "").startswith("https:") or not is_loopback_host(request)


def _status(key: Key | None, session: Session | None = None) -> SessionStatus:
    every = get_args(Permission)
    return SessionStatus(
        name=key.name if key else "",
        permissions=[one for one in every if key is None or key.allows(one)],
        expires_at_s=session.expires_at_s if session else None,
        csrf_token=session.csrf_token if session else None,
    )
