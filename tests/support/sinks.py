"""Events for sinks, and patience until they have arrived."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from serve_app.types import Event

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def until(look: Callable[[], object], what: str = "it", within_s: float = 60) -> None:
    """Wait until ``look`` returns something true."""
    try:
        async with asyncio.timeout(within_s):
            while not look():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} did not come true") from None


def event(event_id: int, kind: str = "result") -> Event:
    """Return an event of the stream ``lot``."""
    text = json.dumps({"event_id": event_id, "type": kind, "stream_id": "lot"})
    return Event(event_id, kind, "lot", text)
