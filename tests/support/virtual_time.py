"""An event loop with virtual time, for code that waits for timers and runs short functions in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

from scripts.benchmark.simulation import VirtualLoop

Args = TypeVarTuple("Args")
Result = TypeVar("Result")

BACKEND = ("asyncio", {"loop_factory": lambda: ThreadlessLoop()})  # a value for the fixture ``anyio_backend``


class ThreadlessLoop(VirtualLoop):
    """A virtual loop that runs functions itself instead of in threads.

    If functions ran in threads, the virtual time would jump while the loop waited for a thread. Like a thread, the loop
    finishes a function even if the caller is cancelled.
    """

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Args], Result], *args: *Args
    ) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as exc:
                if not future.done():
                    future.set_exception(exc)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_soon(work)
        return future
