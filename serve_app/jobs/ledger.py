"""The store of jobs, used from an event loop. The store blocks, so it has a thread of its own."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from serve_app.errors import ServeAppError, Unavailable
from serve_app.jobs.store import JobStore

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.5
_OPEN_TIMEOUT_S = 15.0  # a new supervisor needs less time than this to open the store

P = ParamSpec("P")
T = TypeVar("T")


class Ledger:
    """Runs every method of the store in one thread, in the order of the calls.

    Only the writing of results and the measuring of space read the store in other threads.
    """

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, "job store")
        self._is_open = asyncio.Event()
        self._changes: set[asyncio.Future[Any]] = set()  # the changes in progress

    async def acquire(self) -> None:
        """Wait until no other process holds the store, and open it."""
        while not await self.call(self.store.acquire):  # noqa: ASYNC110  # the process that holds it cannot notify us
            await asyncio.sleep(_POLL_INTERVAL_S)

    def allow_calls(self) -> None:
        """Let ``wait_until_open`` return from now on."""
        self._is_open.set()

    async def wait_until_open(self) -> None:
        """Wait until the jobs can be changed. Raise Unavailable after 15 s."""
        try:
            await asyncio.wait_for(self._is_open.wait(), _OPEN_TIMEOUT_S)
        except TimeoutError as exc:
            raise Unavailable("another supervisor still manages the jobs; retry") from exc

    async def call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the store in the store's thread. The call is finished even if the caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await self._finish(loop.run_in_executor(self._thread, functools.partial(method, *args, **kwargs)))

    async def complete(self, change: Coroutine[Any, Any, T]) -> T:
        """Run a change and return its result. The change is finished even if the caller is cancelled."""
        return await self._finish(asyncio.ensure_future(change))

    async def close(self) -> None:
        """Wait for the changes in progress, and close the store, so that another process can open it."""
        try:
            while self._changes:
                await asyncio.wait(self._changes)
        finally:
            await asyncio.get_running_loop().run_in_executor(self._thread, self.store.close)
            self._thread.shutdown(wait=False)

    async def _finish(self, change: asyncio.Future[T]) -> T:
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)
        try:
            return await asyncio.shield(change)
        except asyncio.CancelledError:
            change.add_done_callback(_log_bug)
            raise


def _log_bug(change: asyncio.Future[Any]) -> None:
    """Log the error of a change whose caller was cancelled. A refusal is no bug: the job was deleted, for example."""
    if not change.cancelled() and (exc := change.exception()) and not isinstance(exc, ServeAppError):
        logger.error("a change of the jobs failed", exc_info=exc)


class _HasLedger(Protocol):
    @property
    def ledger(self) -> Ledger: ...


S = TypeVar("S", bound=_HasLedger)


def uninterrupted(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Let a method run to its end even if its caller is cancelled, so that no change stops halfway."""

    @functools.wraps(method)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.ledger.complete(method(self, *args, **kwargs))

    return wrapper
