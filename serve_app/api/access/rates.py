"""The limits of each caller: how many requests may be in flight, and how many may start per second."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiolimiter import AsyncLimiter

from serve_app.api.access.keys import Key
from serve_app.api.access.sessions import Session
from serve_app.errors import RateLimited
from serve_app.types import Principal


@dataclass(frozen=True)
class Caller:
    """An API key and its limits. Without API keys, all clients together are one caller."""

    principal: Principal
    requests_per_s: float  # 0 means no limit
    concurrency: int  # 0 means no limit
    key: Key | None = None
    session: Session | None = None  # if the key comes from a session's cookie


class KeyUsage:
    """The requests in flight and the request rate of all callers that share one name."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._limiter: AsyncLimiter | None = None
        self._requests_per_s = 0.0

    @asynccontextmanager
    async def one(self, caller: Caller) -> AsyncIterator[None]:
        """Count one more request in flight while the ``with`` block runs. Raise RateLimited if a limit is reached."""
        if caller.concurrency and self.in_flight >= caller.concurrency:
            raise RateLimited(
                f"access.concurrency: {caller.concurrency} requests of this API key are in flight, which is the limit; "
                "retry when one has finished, or raise this setting or the key's own limit in the API-key file",
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
            # A burst may have as many requests as the limit allows in one second, but at least one request.
            limiter = AsyncLimiter(max(1.0, requests_per_s), max(1.0, 1 / requests_per_s)) if requests_per_s else None
            self._limiter = limiter
        if self._limiter is None:
            return
        if not self._limiter.has_capacity():
            raise RateLimited(
                f"access.requests_per_s: the limit of {requests_per_s:g} requests per second is exceeded; retry later, "
                "or raise this setting or the key's own limit in the API-key file",
                math.ceil(1 / requests_per_s),  # after this time, the limiter has capacity for one more request
                limit="access.requests_per_s",
            )
        await self._limiter.acquire()  # returns at once, because the limiter has capacity
