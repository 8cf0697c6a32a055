"""Saving of a file that the server sends. The file appears when it is whole."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.client.requests import ApiRequest

if TYPE_CHECKING:
    from serve_app.client.async_ import AsyncClient
    from serve_app.client.sync import Client


def save(client: Client, request: ApiRequest[None], path: str | os.PathLike[str]) -> None:
    """Send a request, and write the bytes of its response to a file."""
    with _part_of(path) as part, open(part, "wb") as file, client.download(request) as chunks:
        for chunk in chunks:
            file.write(chunk)


async def save_async(client: AsyncClient, request: ApiRequest[None], path: str | os.PathLike[str]) -> None:
    """Do the same as ``save`` without blocking the event loop."""
    with _part_of(path) as part, await asyncio.to_thread(open, part, "wb") as file:
        async with client.download(request) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)


@contextmanager
def _part_of(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path that a file has until it is whole, and then give the file its own name."""
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
