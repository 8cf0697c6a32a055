"""The previews of many streams over one WebSocket.

A browser opens only six connections to a host, so a page with many streams cannot open one for each. Each Ingress asks
a stream for its newest frame once, however many connections of one client watch it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import time
from contextlib import suppress

from aiolimiter import AsyncLimiter
from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from serve_app.api.access.middleware import principal_of
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Streams
from serve_app.api.events import KEEP_ALIVE_INTERVAL_S, Followers
from serve_app.errors import InvalidParameter, Overloaded, RateLimited, ServeAppError, Unavailable
from serve_app.schemas.previews import Watch
from serve_app.types import Principal, Snapshot

logger = logging.getLogger(__name__)

MAX_PREVIEWS = 256  # per Ingress replica; each has one call of the StreamSupervisor in flight
_MAX_MESSAGE_CHARS = 16_384
MAX_MESSAGES_PER_S = 100  # on one connection; a page that is scrolled sends up to 60
_CHANGE_INTERVAL_S = 0.2  # the shortest time between two changes of what a connection watches, as each starts calls
_RETRY_PAUSE_S = 2.0
_MAX_SIDE_PX = 640  # larger frames are scaled down, because a page shows many of them
_LENGTH = struct.Struct(">I")
_REFUSED = 4000  # application-defined WebSocket close codes begin at 4000

_Shown = tuple[Principal, str, bool]  # who watches, the stream's id, and whether boxes are drawn


def router(streams: Streams, followers: Followers) -> Router:
    """Return the route of the previews."""
    routes = Router(permission="streams", tags=["streams"])
    previews = _Previews(streams)

    @routes.websocket("/streams/previews")
    async def watch_streams(socket: WebSocket) -> None:
        """Send the newest frames of the streams that the client's last message names.

        Each frame is one binary message: the length of a JSON header as four bytes, the most significant first, then
        the header, then a JPEG. An error of one stream is a text message.
        """
        await socket.accept()
        watcher = _Watcher(previews, principal_of(socket))
        try:
            with followers.one():
                await _until_disconnected(socket, watcher)
        except ServeAppError as exc:
            with suppress(RuntimeError, WebSocketDisconnect):  # the client may have disconnected in the meantime
                await socket.close(_REFUSED + exc.status_code, exc.detail[:100])
        finally:
            watcher.close()

    return routes


class _Previews:
    """The previews that at least one connection watches."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._shown: dict[_Shown, _Preview] = {}

    def join(self, shown: _Shown, watcher: _Watcher) -> None:
        """Let a watcher see a stream. Raise Overloaded if the limit is reached."""
        if shown not in self._shown:
            if len(self._shown) >= MAX_PREVIEWS:
                raise Overloaded(
                    f"previews: {MAX_PREVIEWS} previews are watched, which is the limit; close one or retry later",
                    limit="previews",
                )
            self._shown[shown] = _Preview(self._streams, shown)
        self._shown[shown].add(watcher)

    def leave(self, shown: _Shown, watcher: _Watcher) -> None:
        """Stop showing a stream to a watcher. A preview without a watcher ends."""
        preview = self._shown.get(shown)
        if preview is not None and not preview.remove(watcher):
            del self._shown[shown]


class _Preview:
    """Fetches the newest frames of one stream, as often as the watcher that wants the most."""

    def __init__(self, streams: Streams, shown: _Shown) -> None:
        self._streams = streams
        self._shown = shown
        self._watchers: set[_Watcher] = set()
        self._newest: Snapshot | ServeAppError | None = None
        self._task = asyncio.create_task(self._run(), name=f"preview of {shown[1]}")

    def add(self, watcher: _Watcher) -> None:
        self._watchers.add(watcher)
        if self._newest is not None:
            watcher.offer(self._shown[1], self._newest)

    def remove(self, watcher: _Watcher) -> bool:
        """Forget a watcher. Return whether others remain."""
        self._watchers.discard(watcher)
        if not self._watchers:
            self._task.cancel()
        return bool(self._watchers)

    async def _run(self) -> None:
        who, stream_id, boxes = self._shown
        frame_id: int | None = None
        while True:
            started_at_s = time.monotonic()
            try:
                # Every call checks again whether the client may see the stream.
                newer = await self._streams.snapshot(
                    stream_id, who, frame_id, KEEP_ALIVE_INTERVAL_S, boxes=boxes, max_side_px=_MAX_SIDE_PX
                )
            except ServeAppError as exc:
                self._offer(exc)
                frame_id = None
                await asyncio.sleep(_RETRY_PAUSE_S)
                continue
            except Exception:  # a bug in the stream's process must not leave the watchers without a word
                logger.exception("the preview of stream %s failed; retrying in %g s", stream_id, _RETRY_PAUSE_S)
                self._offer(Unavailable("the preview failed; the server's log has the reason"))
                frame_id = None
                await asyncio.sleep(_RETRY_PAUSE_S)
                continue
            if newer is None and frame_id is not None:
                # After a restart or a replacement, a stream may begin with lower ids again.
                frame_id = None
                await asyncio.sleep(min(watcher.interval_s for watcher in self._watchers))
                continue
            if newer is not None:
                frame_id = newer.frame_id
                self._offer(newer)
            interval_s = min(watcher.interval_s for watcher in self._watchers)
            await asyncio.sleep(max(0.0, started_at_s + interval_s - time.monotonic()))

    def _offer(self, newest: Snapshot | ServeAppError) -> None:
        self._newest = newest
        for watcher in self._watchers:
            watcher.offer(self._shown[1], newest)


class _Watcher:
    """One connection. It keeps only the newest frame of each stream until the client has read the frame before."""

    def __init__(self, previews: _Previews, who: Principal) -> None:
        self.interval_s = 1.0
        self._previews = previews
        self._who = who
        self._watched: set[_Shown] = set()
        self._waiting: dict[str, Snapshot | ServeAppError] = {}
        self._due_at_s: dict[str, float] = {}
        self._arrived = asyncio.Event()
        self._asked: Watch | None = None
        self._next_change_at_s = 0.0

    def ask(self, watch: Watch) -> None:
        """Note what the client wants to watch. A later wish replaces it."""
        self._asked = watch
        self._arrived.set()

    def _watch(self, watch: Watch) -> None:
        """Watch these streams, and no others."""
        wanted = {(self._who, stream_id, watch.boxes) for stream_id in watch.streams}
        self.interval_s = 1 / watch.max_fps
        for shown in self._watched - wanted:
            self._previews.leave(shown, self)
        ids = set(watch.streams)
        self._waiting = {name: newest for name, newest in self._waiting.items() if name in ids}
        self._due_at_s = {name: due for name, due in self._due_at_s.items() if name in ids}
        new, self._watched = wanted - self._watched, self._watched & wanted
        for shown in sorted(new, key=lambda one: one[1]):
            try:
                self._previews.join(shown, self)
            except Overloaded as exc:
                self.offer(shown[1], exc)
            else:
                self._watched.add(shown)

    def offer(self, stream_id: str, newest: Snapshot | ServeAppError) -> None:
        """Replace what waits to be sent for a stream."""
        self._waiting[stream_id] = newest
        self._arrived.set()

    async def send(self, socket: WebSocket) -> None:
        """Send what arrives, each stream at most as often as the client wants. Sending waits for a slow client."""
        while True:
            now_s = time.monotonic()
            if self._asked is not None and now_s >= self._next_change_at_s:
                self._watch(self._asked)
                self._asked, self._next_change_at_s = None, now_s + _CHANGE_INTERVAL_S
            self._arrived.clear()
            due_at_s = {name: self._due_at_s.get(name, 0.0) for name in self._waiting}
            name = min(due_at_s, key=due_at_s.__getitem__, default=None)
            if name is not None and due_at_s[name] <= now_s:
                newest = self._waiting.pop(name)
                self._due_at_s[name] = now_s + 0.9 * self.interval_s  # frames are not quite regular
                if isinstance(newest, Snapshot):
                    await socket.send_bytes(_message(name, newest))
                else:
                    await socket.send_json({"stream_id": name, "code": newest.code, "detail": newest.detail})
                continue
            later = [*due_at_s.values()] + ([] if self._asked is None else [self._next_change_at_s])
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(later) - time.monotonic()) if later else None):
                    await self._arrived.wait()

    def close(self) -> None:
        """End the previews that only this connection watches."""
        for shown in self._watched:
            self._previews.leave(shown, self)
        self._watched = set()


def _message(stream_id: str, shot: Snapshot) -> bytes:
    header = json.dumps({"stream_id": stream_id, "frame_id": shot.frame_id, "captured_at_s": shot.captured_at_s})
    encoded = header.encode()
    return b"".join((_LENGTH.pack(len(encoded)), encoded, shot.jpeg))


async def _until_disconnected(socket: WebSocket, watcher: _Watcher) -> None:
    """Send frames, and read what the client wants to watch, until it disconnects. Raise InvalidParameter."""
    sending = asyncio.create_task(watcher.send(socket))
    reading = asyncio.create_task(_read(socket, watcher))
    try:
        await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, reading):
            task.cancel()
        results = await asyncio.gather(sending, reading, return_exceptions=True)
    for result in results:
        if isinstance(result, ServeAppError):
            raise result


async def _read(socket: WebSocket, watcher: _Watcher) -> None:
    """Read messages until the client disconnects. Raise InvalidParameter, and RateLimited for too many messages."""
    rate = AsyncLimiter(MAX_MESSAGES_PER_S, 1.0)
    with suppress(WebSocketDisconnect):
        while True:
            try:
                text = await socket.receive_text()
            except KeyError:
                raise InvalidParameter("the message is binary; send JSON as text") from None
            if not rate.has_capacity():
                raise RateLimited(
                    f"preview_messages: a connection may send {MAX_MESSAGES_PER_S} per second; send fewer",
                    limit="preview_messages",
                )
            await rate.acquire()
            try:
                if len(text) > _MAX_MESSAGE_CHARS:
                    raise InvalidParameter(f"the message is longer than {_MAX_MESSAGE_CHARS} characters; name fewer")
                watcher.ask(Watch.model_validate_json(text))
            except ValidationError as exc:
                problem = exc.errors()[0]
                where = ".".join(map(str, problem["loc"])) or "the message"
                raise InvalidParameter(f"{where}: {problem['msg']}") from None
