"""How much each caller may ask for at once, and how fast."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiolimiter import AsyncLimiter

from serve_app.api.access.keys import Key
from serve_app.errors import (
    RateLimited,
)


@dataclass(frozen=True)
class Caller:
    """Whoever asks: a key's name, or all together who come without one."""

    name: str
    requests_per_s: float  # 0: no limit
    concurrency: int  # 0: no limit
    key: Key | None = None


class KeyUsage:
    """What callers of one name have under way, and how fast they come."""

    def __init__(self) -> None:
        self.under_way = 0
        self._limiter: AsyncLimiter | None = None
        self._requests_per_s = 0.0

    @asynccontextmanager
    async def one(self, caller: Caller) -> AsyncIterator[None]:
        """One more is under way within the block. Raises RateLimited."""
        if caller.concurrency and self.under_way >= caller.concurrency:
            raise RateLimited(f"{caller.concurrency} requests are under way already, which is the limit")
        await self._pass(caller.requests_per_s)
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def _pass(self, requests_per_s: float) -> None:
        if requests_per_s != self._requests_per_s:
            self._requests_per_s = requests_per_s
            # A second's requests may come at once; of less than one a second, one.
            of_a_second = (
                AsyncLimiter(max(1.0, requests_per_s), max(1.0, 1 / requests_per_s)) if requests_per_s else None
            )
            self._limiter = of_a_second
        if self._limiter is None:
            return
        if not self._limiter.has_capacity():
            # The bucket leaks room for one in at most so long.
            raise RateLimited(f"{requests_per_s:g} requests a second are the limit", math.ceil(1 / requests_per_s))
        await self._limiter.acquire()  # at once
