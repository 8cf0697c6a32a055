"""Listing and reading of a job's source as the supervisor and the runners do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from serve_app.config import AppArgs
from serve_app.jobs.sources import Page, Source, open_source
from serve_app.jobs.units import Clip, Item
from serve_app.schemas.jobs import SourceSpec

_SPEC: TypeAdapter[SourceSpec] = TypeAdapter(SourceSpec)


def source_of(args: AppArgs, folder: Path = Path("/nowhere"), **spec: Any) -> Source:
    """Open the source of this specification."""
    return open_source(_SPEC.validate_python(spec), args, folder)


async def pages(source: Source, cursor: str | None = None) -> list[Page]:
    """Return all pages after a cursor."""
    return [page async for page in source.pages(cursor)]


async def items(source: Source, cursor: str | None = None) -> list[Item]:
    """Return all listed items after a cursor."""
    return [item for page in await pages(source, cursor) for unit in page.units for item in unit.items]


async def names(source: Source, cursor: str | None = None) -> list[str]:
    """Return the names of all listed items after a cursor."""
    return [item.name for item in await items(source, cursor)]


async def clips(source: Source) -> list[Clip]:
    """Return all clips of a video."""
    return [unit.clip for page in await pages(source) for unit in page.units if unit.clip]


async def check_resumption(source: Source) -> None:
    """Check that the listing continues exactly after each cursor, and that only the last page has none."""
    listed = await pages(source)
    assert [page.cursor is None for page in listed] == [False] * (len(listed) - 1) + [True]
    everything = await items(source)
    done = 0
    for page in listed[:-1]:
        done += sum(len(unit.items) for unit in page.units)
        assert await items(source, page.cursor) == everything[done:]
