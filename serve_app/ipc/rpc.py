"""Call other processes of the same node with pickled messages over Unix sockets.

Many calls share a connection.

A call over a Ray Serve handle passes through gRPC in Python, a router and several tasks at each end. With a busy engine
on the same machine, such a call took 3 ms of CPU time, while a call over a Unix socket took 0.3 ms. Handles are still
used for calls to other nodes, and for all calls until a server on this node is found.

Both ends check that the other end belongs to the same user before they unpickle anything.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import pickle
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from serve_app.errors import Limit, Overloaded, ReplicaDied, ReplicaGone
from serve_app.ipc import dev_shm

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<QI")  # the call's number, and the length of the message
_EMPTY = b""  # sent by a caller to cancel a call
_GOING_AWAY = 0  # sent by a server instead of a call's number when it accepts no more calls
_SCAN_INTERVAL_S = 1.0
_DRAIN_TIMEOUT_S = 15.0
_MAX_ATTEMPTS = 2  # a call is refused when this many servers are full
_MAX_UNSENT_BYTES = 64 << 20  # no call is sent to a server while this many bytes of earlier messages are unsent

Method = Callable[..., Awaitable[Any]]


class _Connection(asyncio.Protocol):
    """A connection for numbered messages in both directions.

    The memory of a received message is valid only until ``received`` returns.
    """

    def __init__(
        self,
        received: Callable[[_Connection, int, memoryview], None],
        lost: Callable[[_Connection], None],
        made: Callable[[_Connection], None] = lambda connection: None,
    ) -> None:
        self._received = received
        self._lost = lost
        self._made = made
        self._buffer = bytearray()
        self._transport: Any = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def unsent_bytes(self) -> int:
        return int(self._transport.get_write_buffer_size())

    def send(self, number: int, message: bytes) -> None:
        self._transport.writelines(
            (_HEADER.pack(number, len(message)), message)
        )  # two buffers, because joining them would copy a large message

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        credentials = struct.Struct("iII")  # process, user, group: unix(7), SO_PEERCRED
        peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
        if credentials.unpack(peer)[1] != os.getuid():
            self.close()
        else:
            self._made(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        start = 0
        with memoryview(self._buffer) as view:
            while len(view) - start >= _HEADER.size:
                number, size = _HEADER.unpack_from(view, start)
                body = start + _HEADER.size
                if body + size > len(view):
                    break
                with view[body : body + size] as message:
                    self._received(self, number, message)
                start = body + size
        del self._buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self)


class CallServer:
    """A server that lets processes of this node call ``methods``.

    It runs up to ``max_calls`` calls at once, and refuses further ones. ``limit`` is the name of the setting that
    determines ``max_calls``.
    """

    def __init__(self, methods: Mapping[str, Method], *, max_calls: int, limit: Limit) -> None:
        self._methods = methods
        self._max_calls = max_calls
        self._limit: Limit = limit
        self._calls: dict[tuple[_Connection, int], asyncio.Task[None]] = {}
        self._connections: set[_Connection] = set()
        self._closing = False
        self._all_disconnected = asyncio.Event()

    async def start(self, service: str, folder: Path = dev_shm.FOLDER) -> None:
        """Start to listen, so that callers of ``service`` find this server."""
        dev_shm.sweep(folder)
        self._path = dev_shm.socket_path(folder, service)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Connection(self._receive, self._lose, self._join), self._path
        )

    async def wait_until_disconnected(self) -> None:
        """Wait until all callers have disconnected."""
        if self._connections:
            await self._all_disconnected.wait()

    async def close(self) -> None:
        """Stop the server: refuse new calls, answer the accepted ones, then close the connections."""
        self._closing = True
        self._path.unlink(missing_ok=True)
        self._server.close()
        for connection in self._connections:
            self._announce_shutdown(connection)
        if self._connections:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_disconnected.wait(), _DRAIN_TIMEOUT_S)
        for connection in self._connections:
            connection.close()

    def _join(self, connection: _Connection) -> None:
        self._connections.add(connection)
        self._all_disconnected.clear()
        if self._closing:  # the caller connected just before we stopped listening
            self._announce_shutdown(connection)

    def _announce_shutdown(self, connection: _Connection) -> None:
        if connection.is_open:
            connection.send(_GOING_AWAY, _EMPTY)

    def _receive(self, connection: _Connection, number: int, message: memoryview) -> None:
        call = connection, number
        if message == _EMPTY:
            if call in self._calls:
                self._calls[call].cancel()
        elif len(self._calls) >= self._max_calls:
            _reply(connection, number, (True, self._refusal()))
        else:
            task = self._calls[call] = asyncio.create_task(self._answer(connection, number, bytes(message)))
            task.add_done_callback(lambda _: self._calls.pop(call))

    async def _answer(self, connection: _Connection, number: int, message: bytes) -> None:
        """Run a method and reply with its result or its error. Without a reply, the caller would wait forever."""
        method = "a call"
        try:
            method, args, kwargs = pickle.loads(message)
            _reply(connection, number, (True, await self._methods[method](*args, **kwargs)))
        except (Exception, asyncio.CancelledError) as exc:
            if not isinstance(exc, asyncio.CancelledError):
                logger.exception("%s failed", method)
            _reply(connection, number, (False, f"{method} failed: {type(exc).__name__}"))

    def _refusal(self) -> Overloaded:
        detail = f"{self._limit}: {self._max_calls} calls are in flight at a replica, which is the limit; retry later"
        return Overloaded(detail, limit=self._limit)

    def _lose(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        for (caller, _), task in self._calls.items():
            if caller is connection:
                task.cancel()
        if not self._connections:
            self._all_disconnected.set()


def _reply(connection: _Connection, number: int, answer: tuple[bool, Any]) -> None:
    message = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    if connection.is_open:  # the caller may have disconnected
        connection.send(number, message)


class LocalReplicas:
    """A caller's connections to the servers of a service on this node. All calls must come from one event loop."""

    def __init__(self, service: str, folder: Path = dev_shm.FOLDER) -> None:
        self._service = service
        self._folder = folder
        self._links: dict[Path, _Link] = {}
        self._scan_at_s = 0.0
        self._scanning: asyncio.Task[None]

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method on the server with the fewest calls in flight. If that server is full, try the next one.

        Return the method's result. If both servers are full, or the only server is full, return an ``Overloaded`` error
        without raising it. Raise ReplicaGone when there is no server, ReplicaDied when a server ends during the call,
        and RuntimeError when the method fails.
        """
        scanning = self._newest_scan()
        if not self._links:
            await asyncio.shield(scanning)  # shielded, because other calls may wait for the same scan
        links = sorted(
            (link for link in self._links.values() if link.accepts_calls), key=lambda link: (link.load, random.random())
        )
        if not links:
            raise ReplicaGone("no replica on this node")
        refusal = None
        for link in links[:_MAX_ATTEMPTS]:
            try:
                result = await link.call(method, args, kwargs)
            except ReplicaGone:
                if refusal is None:
                    raise
                break
            if not isinstance(result, Overloaded):
                return result
            refusal = result
        return refusal

    async def call_all(self, method: str, timeout_s: float) -> list[Any]:
        """Call a method on every server, and return the results of those that answer in time."""
        await asyncio.shield(self._newest_scan())
        calls = (asyncio.wait_for(link.call(method, (), {}), timeout_s) for link in self._links.values())
        results = await asyncio.gather(*calls, return_exceptions=True)
        return [result for result in results if not isinstance(result, BaseException)]

    def _newest_scan(self) -> asyncio.Task[None]:
        """Return the newest scan, which may have ended. It began at most a second ago."""
        if time.monotonic() >= self._scan_at_s:
            self._scan_at_s = time.monotonic() + _SCAN_INTERVAL_S
            self._scanning = asyncio.create_task(self._scan())
        return self._scanning

    async def _scan(self) -> None:
        self._links = {path: link for path, link in self._links.items() if link.is_open}
        for path in dev_shm.sockets(self._folder, self._service):
            if path not in self._links:
                with suppress(OSError):  # the server has just ended, or the file belongs to another user
                    self._links[path] = await _Link.to(path)


class _Link:
    """A connection to a server, and the calls in flight on it."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[tuple[bool, Any]]] = {}
        self._numbers = itertools.count(1)
        self._going_away = False
        self._connection = _Connection(self._receive, self._lose)

    @classmethod
    async def to(cls, path: Path) -> _Link:
        """Connect to the server at a path. Raise OSError on failure."""
        link = cls()
        await asyncio.get_running_loop().create_unix_connection(lambda: link._connection, str(path))
        return link

    @property
    def is_open(self) -> bool:
        return self._connection.is_open

    @property
    def accepts_calls(self) -> bool:
        return self.is_open and not self._going_away and self._connection.unsent_bytes < _MAX_UNSENT_BYTES

    @property
    def load(self) -> int:
        return len(self._waiting)

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.accepts_calls:
            raise ReplicaGone("a replica ended before the call")
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._connection.send(number, pickle.dumps((method, args, kwargs), pickle.HIGHEST_PROTOCOL))
            worked, value = await answer
        except asyncio.CancelledError:
            if self.is_open:
                self._connection.send(number, _EMPTY)
            raise
        finally:
            del self._waiting[number]
            self._close_when_done()
        if not worked:
            raise RuntimeError(value)
        return value

    def close(self) -> None:
        self._connection.close()

    def _close_when_done(self) -> None:
        if self._going_away and not self._waiting:
            self.close()

    def _receive(self, connection: _Connection, number: int, message: memoryview) -> None:
        if number == _GOING_AWAY:
            self._going_away = True
            self._close_when_done()
        elif (answer := self._waiting.get(number)) and not answer.done():  # otherwise the call was cancelled
            try:
                answer.set_result(pickle.loads(message))
            except Exception as exc:  # for example, the server runs another version of our code
                answer.set_exception(RuntimeError(f"an answer cannot be read: {type(exc).__name__}"))

    def _lose(self, connection: _Connection) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ReplicaDied("a replica ended during the call"))
