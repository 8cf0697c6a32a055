"""Helpers for tests of sinks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import EventSinkSpec
from serve_app.sinks import Sink, open_sink
from serve_app.types import Event

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def until(look: Callable[[], object], what: str = "it", within_s: float = 60) -> None:
    """Wait until ``look`` returns a true value. Raise AssertionError after ``within_s`` seconds."""
    try:
        async with asyncio.timeout(within_s):
            while not look():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {within_s:g} s") from None


def event(event_id: int, kind: str = "result") -> Event:
    """Return an event of the stream ``lot`` with this id and kind."""
    text = json.dumps({"event_id": event_id, "type": kind, "stream_id": "lot"})
    return Event(event_id, kind, "lot", text)


def new_sink(folder: Path, guard: AddressGuard | None = None, **spec: Any) -> Sink:
    """Open a sink for the stream ``lot``."""
    return open_sink(TypeAdapter(EventSinkSpec).validate_python(spec), "lot", folder, guard or AddressGuard())
