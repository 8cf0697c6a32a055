"""An event loop whose time jumps, for code that waits for time and does short work in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

from scripts.benchmark.simulation import VirtualLoop

Args = TypeVarTuple("Args")
Result = TypeVar("Result")

BACKEND = ("asyncio", {"loop_factory": lambda: ThreadlessLoop()})  # what a test's fixture ``anyio_backend`` returns


class ThreadlessLoop(VirtualLoop):
    """Does on the loop itself what would be done in a thread, since time would jump on while the thread works.

    As in a thread, the work is done also when its caller is cancelled.
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
