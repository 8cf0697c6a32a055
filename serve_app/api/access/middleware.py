"""Who may ask, and how much: settled before a body is read, and held until the answer has ended, however it ends."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection  # ASGI's word for it; here a scope is a key's

from serve_app.api.access.keys import Key, KeyFile, Scope, find_key
from serve_app.api.access.local import check_local
from serve_app.api.access.rates import Caller, KeyUsage
from serve_app.api.backend import Pipeline
from serve_app.api.bodies import read_body
from serve_app.api.errors import to_response
from serve_app.config import AppArgs
from serve_app.errors import (
    ConfigError,
    DeadlineExceeded,
    Forbidden,
    Malformed,
    NotFound,
    ServeAppError,
    Unauthorized,
)
from serve_app.overload.limits import Places

logger = logging.getLogger(__name__)

_SCOPES: dict[str, Scope] = {
    "detect": "detect",
    "models": "detect",
    "streams": "streams",
}  # by the first part of the path
_OPEN = {"health", "livez", "readyz", "docs", "openapi.json"}  # whatever is in neither does not exist
_READS_ITS_BODY = {"detect"}
_HAVE_A_BODY = {"POST", "PUT", "PATCH"}
_HAVE_NONE = {"GET", "HEAD", "DELETE"}
_MAX_BODY_BYTES = 1 << 20  # of JSON
_LOOK_PERIOD_S = 1.0  # at the keys' file
_WATCH_PERIOD_S = 1.0  # over those whose answer goes on
_GOODBYE_S = 1.0  # for a client to read it
_REFUSED = 4000  # WebSocket's closing codes: those of an application begin at 4000


class Access:
    """ASGI middleware: finds out whose a request is, and lets in what its key allows.

    Without keys only this machine's own requests come in: see ``require_keys`` and ``check_local``.
    """

    def __init__(self, app: ASGIApp, pipeline: Pipeline, args: AppArgs, key_file: KeyFile | None) -> None:
        self._app = app
        self._pipeline = pipeline
        self._args = args.access
        self._deadline_s = args.limits.deadline_s
        self._places = Places(args.limits.max_requests, "the service is at its limit")
        self._key_file = key_file
        self._turns: defaultdict[str, KeyUsage] = defaultdict(KeyUsage)
        self._reader = ThreadPoolExecutor(1, "keys")  # its own: a key's end waits for nobody
        self._look_at_s = 0.0
        self._problem = ""  # of the keys' file
        self._followers: dict[asyncio.Timeout, tuple[Key, Scope]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def __call__(self, connection: Connection, receive: Receive, send: Send) -> None:
        """Answers a refusal itself."""
        if connection["type"] not in {"http", "websocket"}:
            await self._app(connection, receive, send)
            return
        async with AsyncExitStack() as stack:
            try:
                part = first_part(connection["path"].removeprefix(connection.get("root_path", "")))
                caller = await self._admit(HTTPConnection(connection), part, stack)
                if part not in _OPEN:  # Serve would queue it, and its body without a limit
                    stack.enter_context(self._places.one())
                connection.setdefault("state", {})["tenant"] = caller.name
                if connection["type"] == "http":
                    receive = await self._with_body(Request(connection, receive), part)
            except ServeAppError as exc:
                await self._refuse(exc, connection, receive, send)
                return
            if self._key_file and caller.key and _may_last(connection):
                with self._until_revoked(self._key_file, caller.key, _SCOPES[part]) as until:
                    await self._follow(until, connection, receive, send)
            else:
                await self._app(connection, receive, send)

    @contextmanager
    def _until_revoked(self, key_file: KeyFile, key: Key, scope: Scope) -> Iterator[asyncio.Timeout]:
        """A time that is up as soon as the key is no longer good for it."""
        until = asyncio.timeout(None)
        self._followers[until] = key, scope
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(key_file))
        try:
            yield until
        finally:
            del self._followers[until]

    async def _watch(self, key_file: KeyFile) -> None:
        while self._followers:
            await asyncio.sleep(_WATCH_PERIOD_S)
            await self._look_at(key_file)
            good = {key.sha256: key for key in key_file.keys if not key.has_expired()}
            for until, (key, scope) in self._followers.items():
                now = good.get(key.sha256)
                if not until.expired() and (now is None or not now.allows(scope)):
                    until.reschedule(asyncio.get_running_loop().time())

    async def _follow(self, until: asyncio.Timeout, connection: Connection, receive: Receive, send: Send) -> None:
        """The application's answer, which may have no end, as long as its time is not up."""
        has_begun = False

        async def send_on(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            async with until:
                await self._app(connection, receive, send_on)
        except TimeoutError:
            if not until.expired():
                raise
            error = Unauthorized("the API key is unknown or has expired")
            if not has_begun:
                await self._refuse(error, connection, receive, send)
                return
            self._pipeline.refused(error)
            with suppress(RuntimeError, OSError, TimeoutError):  # it has ended, or the client has gone or does not read
                async with asyncio.timeout(_GOODBYE_S):
                    await send(_last_message(connection, error))

    async def _admit(self, request: HTTPConnection, part: str, stack: AsyncExitStack) -> Caller:
        """Whoever asks, with a turn that ends with the stack. Raises ServeAppError."""
        anonymous = Caller("", self._args.requests_per_s, concurrency=0)
        if self._key_file is None:
            check_local(request)
        if part in _OPEN:
            return anonymous
        if part not in _SCOPES:
            raise NotFound("no such route")
        if self._key_file is None:
            await stack.enter_async_context(self._turns[""].one(anonymous))
            return anonymous
        key = await self._authenticate(request, self._key_file)
        caller = Caller(
            key.name,
            self._args.requests_per_s if key.requests_per_s is None else key.requests_per_s,
            self._args.concurrency if key.concurrency is None else key.concurrency,
            key,
        )
        try:
            if not key.allows(_SCOPES[part]):
                raise Forbidden(f"the API key is not for this: its scopes are {', '.join(key.scopes)}")
            await stack.enter_async_context(self._turns[key.name].one(caller))
        except ServeAppError as exc:
            self._pipeline.asked(key.name, exc.code)
            raise
        self._pipeline.asked(key.name, "admitted")
        return caller

    async def _authenticate(self, request: HTTPConnection, key_file: KeyFile) -> Key:
        """Raises Unauthorized."""
        await self._look_at(key_file)
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("this needs an API key: Authorization: Bearer KEY")
        key = find_key(key_file.keys, presented.strip())
        if key is None:
            raise Unauthorized("the API key is unknown or has expired")
        return key

    async def _look_at(self, key_file: KeyFile) -> None:
        """Whether the keys' file has changed, once in a while."""
        if time.monotonic() < self._look_at_s:
            return
        self._look_at_s = math.inf  # others go on with the keys that there are
        try:
            if await asyncio.get_running_loop().run_in_executor(self._reader, key_file.refresh):
                logger.info("the keys' file was read again: %d keys", len(key_file.keys))
                names = {key.name for key in key_file.keys}
                kept = {name: turns for name, turns in self._turns.items() if name in names or turns.under_way}
                self._turns = defaultdict(KeyUsage, kept)
            self._problem = ""
        except ConfigError as exc:
            self._pipeline.keys_unreadable()
            if exc.detail != self._problem:
                logger.error("%s; the keys stay as they were", exc.detail)
            self._problem = exc.detail
        finally:
            self._look_at_s = time.monotonic() + _LOOK_PERIOD_S

    async def _with_body(self, request: Request, part: str) -> Receive:
        """The body, read while it is small enough: FastAPI reads JSON whole, and Ray queues without a bound what a
        handler does not read. Of a request that has none nothing is read: it is answered, and never waits for more.

        Raises Malformed, TooLarge, DeadlineExceeded.
        """
        if request.method in _HAVE_NONE:
            declared = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
            if declared:
                raise Malformed(f"a body came with {request.method}, which has none")
        if request.method not in _HAVE_A_BODY or part not in _SCOPES.keys() - _READS_ITS_BODY:
            return request.receive
        try:
            async with asyncio.timeout(self._deadline_s):
                body = await read_body(request, _MAX_BODY_BYTES)
        except TimeoutError as exc:
            raise DeadlineExceeded(f"the body was not complete within {self._deadline_s:g} s") from exc
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return messages.pop() if messages else await request.receive()

        return receive

    async def _refuse(self, error: ServeAppError, connection: Connection, receive: Receive, send: Send) -> None:
        self._pipeline.refused(error)
        if connection["type"] == "http" or "websocket.http.response" in connection.get("extensions", {}):
            await to_response(HTTPConnection(connection), error)(connection, receive, send)
        else:
            await send(_last_message(connection, error))


def _may_last(connection: Connection) -> bool:
    """Whether its answer may be one without an end."""
    return bool(connection["type"] == "websocket" or connection["method"] == "GET")


def _last_message(connection: Connection, error: ServeAppError) -> Message:
    """What ends an answer that has begun."""
    if connection["type"] == "http":
        return {"type": "http.response.body", "body": b""}
    return {"type": "websocket.close", "code": _REFUSED + error.status_code, "reason": error.detail[:100]}


def tenant_of(request: HTTPConnection) -> str:
    """Whose turn a request takes in the batcher: its key's name."""
    tenant: str = request.state.tenant
    return tenant


def scope_of(path: str) -> Scope | None:
    """What a key must allow for this path; None for one that is open to everybody."""
    return _SCOPES.get(first_part(path))


def first_part(path: str) -> str:
    """``streams`` of ``/streams/lot``."""
    return path.removeprefix("/").partition("/")[0]
