"""An event loop with virtual time, for code that waits for timers and does short work in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

from scripts.benchmark.simulation import VirtualLoop

Args = TypeVarTuple("Args")
Result = TypeVar("Result")

BACKEND = ("asyncio", {"loop_factory": lambda: ThreadlessLoop()})  # to be returned by the fixture ``anyio_backend``


class ThreadlessLoop(VirtualLoop):
    """A virtual loop that runs the work of threads itself, because time would jump while a thread works.

    As in a thread, the work is finished even if its caller is cancelled.
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
