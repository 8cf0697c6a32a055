"""The listing, which finds the items of a job and adds them as units."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from serve_app.config import AppArgs
from serve_app.errors import NoSpace, NotFound, ServeAppError, TooLarge, Unavailable
from serve_app.jobs.active import ActiveJob
from serve_app.jobs.board import Board
from serve_app.jobs.sources import open_source
from serve_app.jobs.units import NewUnit
from serve_app.schemas.jobs import JobSpec, UrlsSource

logger = logging.getLogger(__name__)

_MAX_AHEAD = 50_000  # units; the listing waits while more are open
_AHEAD_INTERVAL_S = 1.0
_FIRST_PAUSE_S = 1.0  # before a source is listed again that was not available; it doubles
_MAX_PAUSE_S = 60.0


def item_count(units: Sequence[NewUnit]) -> int:
    """Return how many items these units have. The number of a clip's frames is an estimate."""
    return sum(len(unit.items) if unit.clip is None else unit.clip.expected for unit in units)


def check_items(count: int, max_items: int) -> None:
    """Raise TooLarge if a job has too many items."""
    if count > max_items:
        raise TooLarge(
            f"jobs.max_items: the source has more than {max_items} items; divide it or raise the limit",
            limit="jobs.max_items",
        )


class Listing:
    """Lists the sources of jobs. Each page is stored together with the position at which the listing continues."""

    def __init__(self, board: Board, args: AppArgs, folder: Path) -> None:
        self._board = board
        self._args = args
        self._folder = folder

    def begin(self, work: ActiveJob) -> None:
        """List the source of a job, from where an earlier listing has ended."""
        self._board.run_task(work, self._run(work), "the listing")

    async def prepare(self, spec: JobSpec) -> tuple[str, list[NewUnit] | None]:
        """Return the source's name, and its units if the source is a list of URLs in the specification.

        Raise the errors of ``open_source`` if the source is not allowed, and TooLarge if the list is too long.
        """
        source = await asyncio.to_thread(open_source, spec.source, self._args, self._folder / spec.id)
        try:
            if not isinstance(spec.source, UrlsSource) or spec.source.path:
                return source.name, None
            units = [unit async for page in source.pages(None) for unit in page.units]
        finally:
            await source.close()
        check_items(item_count(units), self._args.jobs.max_items)
        return source.name, units

    async def _run(self, work: ActiveJob) -> None:
        pause_s = _FIRST_PAUSE_S
        while not work.job.listed and self._board.has(work):
            before = work.job.cursor
            try:
                await self._list(work)
            except NotFound:
                return  # the job was deleted
            except (Unavailable, OSError) as exc:
                work.last_problem = str(exc) if isinstance(exc, ServeAppError) else f"the source: {exc.strerror}"
            except ServeAppError as exc:
                if isinstance(exc, NoSpace):
                    work.last_problem = f"no_space: {exc.detail}"
                else:
                    await self._board.bring_to_end(work, "failed", f"source_unreadable: {exc.detail}")
                    return
            except Exception:  # a bug; without this, the job would never end
                logger.exception("job %s: the source cannot be listed", work.id)
                detail = "source_unreadable: the server's log has the reason"
                await self._board.bring_to_end(work, "failed", detail)
                return
            self._wake(work)  # so that a job without open units is blocked or finished
            if not work.job.listed:
                pause_s = _FIRST_PAUSE_S if work.job.cursor != before else min(2 * pause_s, _MAX_PAUSE_S)
                await asyncio.sleep(pause_s)

    async def _list(self, work: ActiveJob) -> None:
        source = await asyncio.to_thread(open_source, work.job.spec.source, self._args, self._folder / work.id)
        try:
            async for page in source.pages(work.job.cursor):
                await self._wait(work)
                check_items(work.job.items + item_count(page.units), self._args.jobs.max_items)
                await self._add(work, page.units, page.cursor)
            if not work.job.listed:  # a source without any item has no page
                await self._add(work, (), None)
        finally:
            await source.close()

    async def _add(self, work: ActiveJob, units: Sequence[NewUnit], cursor: str | None) -> None:
        ledger = self._board.ledger
        job = await ledger.call(ledger.store.add_units, work.id, units, cursor=cursor, listed=cursor is None)
        work.update(job)
        self._wake(work)

    async def _wait(self, work: ActiveJob) -> None:
        """Wait while the job is paused, or the listing is far ahead of the runners."""
        await work.resumed.wait()
        while work.job.units.open > _MAX_AHEAD:  # noqa: ASYNC110  # each commit changes it, and a second is no matter
            await asyncio.sleep(_AHEAD_INTERVAL_S)

    def _wake(self, work: ActiveJob) -> None:
        work.may_have_open = True
        self._board.changed.set()
