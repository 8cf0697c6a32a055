"""The events of a stream or a job, as Server-Sent Events and over a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Query, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from serve_app.errors import InvalidParameter, NotFound, ServeAppError
from serve_app.overload.limits import ConcurrencyLimit
from serve_app.types import Event, EventPage

KEEP_ALIVE_INTERVAL_S = 10.0  # proxies close idle connections
# ``X-Accel-Buffering: no`` makes nginx forward each event at once.
LIVE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_MAX_FOLLOWERS = 64  # per Ingress replica; each follower keeps a connection open
_NOT_FOUND, _REFUSED = 4404, 4000  # application-defined WebSocket close codes begin at 4000

After = Annotated[
    int | None,
    Query(
        ge=-1,
        description="Send only events whose id is higher than this value. -1 sends every event that the server still "
        "keeps. Default: only new events.",
    ),
]
Types = Annotated[
    list[str], Query(description="Event types, comma-separated or in repeated parameters. Default: every type.")
]
# Returns the events whose id is above the first argument, and waits for the first one as long as the second argument
# says, in seconds.
Read = Callable[[int | None, float], Awaitable[EventPage]]


class Followers(ConcurrencyLimit):
    """The limit on connections that follow streams and jobs."""

    def __init__(self) -> None:
        refusal = f"{_MAX_FOLLOWERS} connections follow streams or jobs, which is the limit; close one or retry later"
        super().__init__(_MAX_FOLLOWERS, "followers", refusal)

    def follow(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Return an iterator over ``parts``. The iterator counts as one follower until it ends.

        Raise Overloaded if the limit is reached.
        """
        # We check the limit before the response begins, so that the client gets a 503 if the limit is reached.
        with self.one():
            pass

        async def counted() -> AsyncIterator[bytes]:
            with suppress(ServeAppError), self.one():  # an error can only end the response, which has already begun
                async for part in parts:
                    yield part

        return counted()


def parse_types(types: list[str], known: Sequence[str]) -> frozenset[str]:
    """Return the requested event types, or all if none is requested. Raise InvalidParameter if a type is unknown."""
    named = frozenset(name.strip() for item in types for name in item.split(",")) or frozenset(known)
    if unknown := sorted(named - set(known)):
        raise InvalidParameter(f"types: no event type is named {unknown[0][:64]!r}; use {', '.join(known)}")
    return named


async def sse_response(
    read: Read, wanted: frozenset[str], after: int | None, followers: Followers
) -> StreamingResponse:
    """Return a response without an end, which sends the wanted types of events as Server-Sent Events."""
    # The first page is read here, because a NotFound can set the status only before the response begins.
    page = await read(after, 0)
    lines = followers.follow(_sse(read, wanted, page))
    return StreamingResponse(lines, media_type="text/event-stream", headers=LIVE)


async def send_events(
    socket: WebSocket, read: Read, types: list[str], known: Sequence[str], after: int | None, followers: Followers
) -> None:
    """Accept a WebSocket, and send the wanted types of events until the client disconnects.

    If there is an error, close the socket with the reason.
    """
    await socket.accept()
    try:
        with followers.one():
            page = await read(after, 0)
            await _until_disconnected(socket, _send_all(socket, read, parse_types(types, known), page))
    except ServeAppError as exc:
        code = _NOT_FOUND if isinstance(exc, NotFound) else _REFUSED + exc.status_code
        with suppress(RuntimeError, WebSocketDisconnect):  # the client may have disconnected in the meantime
            await socket.close(code, exc.detail[:100])  # a close reason may have at most 123 bytes


async def _pages(read: Read, page: EventPage) -> AsyncIterator[EventPage]:
    """Yield the first page and every later page. A page is empty if no event happened in the keep-alive interval."""
    while True:
        yield page
        last_id = page.events[-1].event_id if page.events else page.last_id
        page = await read(last_id, KEEP_ALIVE_INTERVAL_S)


async def _sse(read: Read, wanted: frozenset[str], first: EventPage) -> AsyncIterator[bytes]:
    async for page in _pages(read, first):
        parts = [f'event: missed\ndata: {{"missed":{page.missed}}}\n\n'] if page.missed else []
        parts += [_sse_event(event) for event in page.events if event.type in wanted]
        yield ("".join(parts) or _sse_position(page)).encode()


def _sse_position(page: EventPage) -> str:
    """Return a keep-alive with the current event id. With this id, a client that reconnects misses no event."""
    last_id = page.events[-1].event_id if page.events else page.last_id
    return ": nothing new\n" + (f"id: {last_id}\n\n" if last_id is not None else "\n")


def _sse_event(event: Event) -> str:
    return f"id: {event.event_id}\nevent: {event.type}\ndata: {event.json}\n\n"


async def _send_all(socket: WebSocket, read: Read, wanted: frozenset[str], first: EventPage) -> None:
    async for page in _pages(read, first):
        if page.missed:
            await socket.send_json({"type": "missed", "missed": page.missed})
        for event in page.events:
            if event.type in wanted:
                await socket.send_text(event.json)


async def _until_disconnected(socket: WebSocket, sending: Any) -> None:
    """Run ``sending`` until it ends or the client disconnects.

    We read from the socket in the meantime, because only a read shows that the client has disconnected.
    """

    async def read() -> None:
        with suppress(WebSocketDisconnect):
            while True:
                await socket.receive_text()

    tasks = [asyncio.create_task(sending), asyncio.create_task(read())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(results[0], ServeAppError):
        raise results[0]
