"""Middleware that admits or refuses requests before their bodies are read, and counts the requests in flight."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.access import credentials
from serve_app.api.access.keys import Key, Permission, RoutePermission, find_key
from serve_app.api.access.local import check_local, check_no_page
from serve_app.api.access.pages import check_own_page
from serve_app.api.access.permissions import RouteAccess, RouteTable
from serve_app.api.access.rates import Caller, KeyUsage
from serve_app.api.access.reload import KeyReloader
from serve_app.api.access.revocation import Revocation
from serve_app.api.access.sessions import Session, Sessions, in_cookie
from serve_app.api.backend import Metrics
from serve_app.api.bodies import is_untyped_json, read_in_time
from serve_app.api.errors import to_response
from serve_app.config import AppArgs
from serve_app.errors import Malformed, NotFound, ServeAppError, Unauthorized
from serve_app.overload.limits import ConcurrencyLimit
from serve_app.types import Principal

_METHODS_WITH_BODY = {"POST", "PUT", "PATCH"}
_METHODS_WITHOUT_BODY = {"GET", "HEAD", "DELETE"}
_MAX_BODY_BYTES = 1 << 20  # JSON bodies only
_LAST_MESSAGE_TIMEOUT_S = 1.0  # the longest wait for a client to read the last message
_REFUSED = 4000  # application-defined WebSocket close codes begin at 4000


class Access:
    """ASGI middleware that identifies a request's API key, and admits the request if the key allows it.

    Without API keys, only requests from this machine are admitted: see ``require_keys`` and ``check_local``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: RouteTable,
        metrics: Metrics,
        args: AppArgs,
        keys: KeyReloader | None,
        sessions: Sessions,
    ) -> None:
        self._app = app
        self._routes = routes
        self._metrics = metrics
        self._args = args.access
        self._deadline_s = args.limits.deadline_s
        self._origins = args.cors.allowed()
        self._body_keys = credentials.BodyKeys(args.limits)
        count = args.limits.max_requests
        refusal = f"{count} requests are in flight, which is the limit; retry later or raise it"
        self._requests = ConcurrencyLimit(count, "limits.max_requests", refusal)
        self._usage: defaultdict[str, KeyUsage] = defaultdict(KeyUsage)  # maps a key's name to its usage
        self._keys = keys
        self._sessions = sessions
        self._revocation = None if keys is None else Revocation(keys)
        if keys is not None:
            keys.on_change = self._forget_removed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the application, or refuse it with an error response."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        async with AsyncExitStack() as stack:
            try:
                route, caller = await self._admit(HTTPConnection(scope), receive, stack)
                scope["state"]["caller"] = caller
                if scope["type"] == "http":
                    receive = await self._with_body(Request(scope, credentials.replayed(scope, receive)), route)
            except ServeAppError as exc:
                await self._refuse(exc, scope, receive, send)
                return
            if self._revocation and caller.key and route.permission and _may_be_endless(scope):
                left_s = caller.session.expires_at_s - time.time() if caller.session else None
                with self._revocation.timeout(caller.key, route.permission, left_s) as until_revoked:
                    await self._answer_until(until_revoked, scope, receive, send)
            else:
                await self._app(scope, receive, send)

    async def _answer_until(self, until_revoked: asyncio.Timeout, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application until its response ends or the timeout expires."""
        has_started = False

        async def send_on(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            async with until_revoked:
                await self._app(scope, receive, send_on)
        except TimeoutError:
            if not until_revoked.expired():
                raise
            error = Unauthorized("the API key is unknown or has expired; use a valid one")
            if not has_started:
                await self._refuse(error, scope, receive, send)
                return
            self._metrics.refused(error)
            # Sending fails if the response has already ended, or if the client has disconnected or stopped reading.
            with suppress(RuntimeError, OSError, TimeoutError):
                async with asyncio.timeout(_LAST_MESSAGE_TIMEOUT_S):
                    await send(_last_message(scope, error))

    async def _admit(
        self, request: HTTPConnection, receive: Receive, stack: AsyncExitStack
    ) -> tuple[RouteAccess, Caller]:
        """Return the request's route and the request's caller.

        The request counts towards the caller's limits until ``stack`` is closed. Raise ServeAppError if the request is
        refused.
        """
        route = self._routes.find(request.scope)
        protocol = route.protocol if route else None
        request.scope.setdefault("state", {})["protocol"] = protocol  # it decides how an error looks
        presented = credentials.take_from_query(request.scope, protocol)
        if self._keys is None:
            check_local(request, self._origins)
        if route is None:
            raise NotFound("no such route; /docs lists the routes")
        # Without API keys, all callers are on this machine, and each is an administrator.
        principal = Principal("", is_admin=self._keys is None)
        anonymous = Caller(principal, self._args.requests_per_s, concurrency=0)
        if route.permission is None:
            return route, anonymous
        presented = credentials.in_header(request, protocol) or presented
        if self._keys is None:
            caller = anonymous
            await stack.enter_async_context(self._usage[""].one(anonymous))
        elif not presented and protocol is not None and protocol.admits(request):
            check_no_page(request, self._origins)
            caller = replace(anonymous, concurrency=self._args.concurrency)
            await stack.enter_async_context(self._usage[""].one(caller))
        else:
            if not presented and protocol is not None and protocol.body_place and _has_body(request, route):
                presented = await self._body_keys.read(Request(request.scope, receive), protocol.body_place)
            session = None
            if not presented and protocol is None and "authorization" not in request.headers:
                session = await self._session(request, self._keys)
            if not presented and session is None:
                raise credentials.missing(protocol)
            key = session.key if session else await self._key(presented, self._keys)
            caller = await self._authorise(key, session, route.permission, stack)
        stack.enter_context(self._requests.one())  # without this limit, Serve would queue bodies without bound
        return route, caller

    async def _key(self, presented: str, keys: KeyReloader) -> Key:
        await keys.refresh()
        key = find_key(keys.keys, presented)
        if key is None:
            raise Unauthorized("the API key is unknown or has expired; use a valid one")
        return key

    async def _session(self, request: HTTPConnection, keys: KeyReloader) -> Session | None:
        """Return the session of the request's cookie, or None if there is no cookie.

        Raise Unauthorized if the session has ended, and Forbidden if a page of another site may have made the request.
        """
        cookie = in_cookie(request)
        if not cookie:
            return None
        await keys.refresh()
        session = await self._sessions.read(cookie, keys.keys)
        if session is None:
            raise Unauthorized("the session has ended; sign in again at /console")
        check_own_page(request, session.csrf_token)
        return session

    async def _authorise(
        self, key: Key, session: Session | None, permission: RoutePermission, stack: AsyncExitStack
    ) -> Caller:
        caller = Caller(
            key.principal,
            self._args.requests_per_s if key.requests_per_s is None else key.requests_per_s,
            self._args.concurrency if key.concurrency is None else key.concurrency,
            key,
            session,
        )
        try:
            key.check(permission)
            await stack.enter_async_context(self._usage[key.name].one(caller))
        except ServeAppError as exc:
            self._metrics.requested(key.name, exc.code)
            raise
        self._metrics.requested(key.name, "admitted")
        return caller

    def _forget_removed(self) -> None:
        """Drop the counters of each name that is no longer in the API-key file and has no request in flight."""
        names = {key.name for key in self._keys.keys} if self._keys else set()
        kept = {name: usage for name, usage in self._usage.items() if name in names or usage.in_flight}
        self._usage = defaultdict(KeyUsage, kept)

    async def _with_body(self, request: Request, route: RouteAccess) -> Receive:
        """Read a JSON body within its size limit, and return a ``receive`` that replays the body.

        The body is read here because FastAPI would read JSON without a size limit. Ray would also queue, without a size
        limit, the bytes that a handler does not read. If the HTTP method (for example GET) takes no body, nothing is
        read, so the response does not wait for a body.

        Raise Malformed, TooLarge or DeadlineExceeded if the body is not acceptable or not complete in time.
        """
        if request.method in _METHODS_WITHOUT_BODY:
            declared = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
            if declared:
                raise Malformed(f"{request.method} requests must not have a body; remove it")
        # The route responds 405 to a method that it does not have.
        if route.reads_own_body or request.method not in _METHODS_WITH_BODY & route.methods:
            return request.receive
        body = await read_in_time(request, _MAX_BODY_BYTES, "json_body", self._deadline_s)
        if is_untyped_json(request, body):
            headers = [header for header in request.scope["headers"] if header[0] != b"content-type"]
            request.scope["headers"] = [*headers, (b"content-type", b"application/json")]
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return messages.pop() if messages else await request.receive()

        return receive

    async def _refuse(self, error: ServeAppError, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.refused(error)
        if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await to_response(HTTPConnection(scope), error)(scope, receive, send)
        else:
            await send(_last_message(scope, error))


def _has_body(request: HTTPConnection, route: RouteAccess) -> bool:
    """Return whether the request is one whose body the route will read."""
    return request.scope["type"] == "http" and request.scope["method"] in _METHODS_WITH_BODY & route.methods


def _may_be_endless(scope: Scope) -> bool:
    """Return whether the response may be endless, as an event stream is."""
    return bool(scope["type"] == "websocket" or scope["method"] == "GET")


def _last_message(scope: Scope, error: ServeAppError) -> Message:
    """Return the ASGI message that ends an HTTP response or closes a WebSocket."""
    if scope["type"] == "http":
        return {"type": "http.response.body", "body": b""}
    return {"type": "websocket.close", "code": _REFUSED + error.status_code, "reason": error.detail[:100]}


def principal_of(request: HTTPConnection) -> Principal:
    """Return who makes the request. Without API keys, everyone is an administrator without a name."""
    return caller_of(request).principal


def tenant_of(request: HTTPConnection) -> str:
    """Return the request's tenant in the batcher, which is the name of the request's API key."""
    return principal_of(request).name


async def _who(request: HTTPConnection) -> Principal:
    return principal_of(request)  # in a coroutine, because FastAPI would call a function in a thread


Who = Annotated[Principal, Depends(_who)]  # a route's parameter that says who makes the request


def check_permission(request: HTTPConnection, permission: Permission) -> None:
    """Raise Forbidden if the request's API key lacks a permission that this request needs besides its route's."""
    key = caller_of(request).key
    if key is not None:
        key.check(permission)


def caller_of(request: HTTPConnection) -> Caller:
    """Return the API key with which the request was admitted, and its limits."""
    caller: Caller = request.state.caller
    return caller
