"""An event loop whose time jumps, for code that waits for time and does short work in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from scripts.benchmark.simulation import VirtualLoop

BACKEND = ("asyncio", {"loop_factory": lambda: ThreadlessLoop()})  # what a test's fixture ``anyio_backend`` returns


class ThreadlessLoop(VirtualLoop):
    """Does on the loop itself what would be done in a thread, since time would jump on while the thread works.

    As in a thread, the work is done also when its caller is cancelled.
    """

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()

        def work() -> None:
            try:
                result = function(*args)
            except Exception as exc:
                if not future.done():
                    future.set_exception(exc)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_soon(work)
        return future
