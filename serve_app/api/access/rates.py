"""How much each caller may ask for at once, and how fast."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiolimiter import AsyncLimiter

from serve_app.api.access.keys import Key
from serve_app.errors import RateLimited


@dataclass(frozen=True)
class Caller:
    """The name of an API key and its limits; without keys, all clients together."""

    name: str
    requests_per_s: float  # 0: no limit
    concurrency: int  # 0: no limit
    key: Key | None = None


class KeyUsage:
    """What the callers of one name have in flight, and how fast their requests come."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._limiter: AsyncLimiter | None = None
        self._requests_per_s = 0.0

    @asynccontextmanager
    async def one(self, caller: Caller) -> AsyncIterator[None]:
        """Count one more request for the length of a block. Raises RateLimited."""
        if caller.concurrency and self.in_flight >= caller.concurrency:
            raise RateLimited(
                f"access.concurrency: {caller.concurrency} requests of this API key are in flight, which is its limit; "
                "retry when one has ended, or raise it, or the key's own in the keys' file",
                limit="access.concurrency",
            )
        await self._keep_rate(caller.requests_per_s)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def _keep_rate(self, requests_per_s: float) -> None:
        if requests_per_s != self._requests_per_s:
            self._requests_per_s = requests_per_s
            # A second's requests may come at once; where less than one a second may come, one.
            of_a_second = (
                AsyncLimiter(max(1.0, requests_per_s), max(1.0, 1 / requests_per_s)) if requests_per_s else None
            )
            self._limiter = of_a_second
        if self._limiter is None:
            return
        if not self._limiter.has_capacity():
            raise RateLimited(
                f"access.requests_per_s: {requests_per_s:g} requests a second are the limit; retry later, or raise it, "
                "or the key's own in the keys' file",
                math.ceil(1 / requests_per_s),  # the bucket has capacity for one more after at most so long
                limit="access.requests_per_s",
            )
        await self._limiter.acquire()  # returns at once
