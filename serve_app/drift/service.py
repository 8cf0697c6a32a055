"""The drift monitor, used from an event loop: reports are applied and saved together, about once a second.

This module does not depend on Ray.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np

from serve_app.drift.answers import change_of, histograms_of, reference_of, report_of
from serve_app.drift.bins import BINS
from serve_app.drift.monitor import Monitor
from serve_app.drift.notices import Notice
from serve_app.drift.reference import Reference
from serve_app.drift.tally import MinuteCounts, Report
from serve_app.drift.webhook import DriftWebhook
from serve_app.errors import InvalidParameter, ServeAppError, Unavailable
from serve_app.schemas.drift import DriftHistograms, NewReference, ReferenceFile, SourceDrift

logger = logging.getLogger(__name__)

_SAVE_INTERVAL_S = 1.0
_RECORD_INTERVAL_S = 10.0  # Ray drops a gauge that was not recorded for 20 s
_TOGETHER_INTERVAL_S = 60.0
_MINUTE_DELAY_S = 30.0  # after a minute's end, for reports that arrive late
_LOCK_INTERVAL_S = 0.5
_OPEN_TIMEOUT_S = 15.0
_CLOSE_TIMEOUT_S = 5.0

P = ParamSpec("P")
T = TypeVar("T")


class DriftService:
    """Answers the calls of other processes. The operations and their errors are documented in ``api.backend.Drift``."""

    def __init__(
        self,
        monitor: Monitor,
        open_store: Callable[[], bool],
        close_store: Callable[[], None],
        *,
        window_images: int,
        webhook: DriftWebhook | None = None,
        record: Callable[[list[SourceDrift], int], None] = lambda sources, lost: None,
        on_minutes: Callable[[list[MinuteCounts]], None] = lambda minutes: None,
    ) -> None:
        """Start when ``open_store`` returns true, which it does not while another process has the store.

        ``record`` gets all sources, and the number of images that could not be counted, every ten seconds. This updates
        the metrics. ``on_minutes`` gets the counts of finished minutes, and is called in a thread.
        """
        self._monitor = monitor
        self._open_store, self._close_store = open_store, close_store
        self._window_images = window_images
        self._webhook = webhook
        self._record = record
        self._on_minutes = on_minutes
        self._thread = ThreadPoolExecutor(1, "drift")
        self._waiting: list[tuple[Report, asyncio.Future[list[Notice]]]] = []
        self._is_open = asyncio.Event()
        self._is_save_failing = False
        self._task = asyncio.create_task(self._run(), name="drift")

    async def report(self, report: Report) -> list[Notice]:
        """Apply a report, save it, and return the notices about its sources."""
        await self._wait_until_open()
        answer: asyncio.Future[list[Notice]] = asyncio.get_running_loop().create_future()
        self._waiting.append((report, answer))
        return await answer

    async def sources(self) -> list[SourceDrift]:
        """Return the drift of every source."""
        return await self._call(report_of, self._monitor)

    async def histograms(self, model: str, source: str) -> DriftHistograms:
        """Return the histograms of a source."""
        return await self._call(histograms_of, self._monitor, model, source)

    async def reference(self, model: str, source: str) -> ReferenceFile:
        """Return the reference of a source."""
        return await self._call(reference_of, self._monitor, model, source)

    async def set_reference(self, new: NewReference) -> SourceDrift:
        """Set the reference of a source, and return the source's drift."""
        notice = await self._call(self._set_reference, new)
        if notice:
            self._publish([notice])
        sources = await self.sources()
        return next(one for one in sources if (one.model, one.source) == (new.model, new.source))

    async def forget(self, source: str) -> None:
        """Forget a source, because its stream was deleted."""
        await self._wait_until_open()
        await self._apply_waiting()  # the last report of the stream's process may be among them
        self._publish(await self._in_thread(self._forget, source))

    async def drifting(self) -> frozenset[str]:
        """Return the names of the sources that drift now."""
        return await self._call(self._monitor.drifting)

    def check(self) -> None:
        """Raise the error with which the background task has failed, if it has."""
        if self._task.done():
            self._task.result()

    async def close(self) -> None:
        """Apply and save the waiting reports, and let another process open the store."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._is_open.is_set():
            await self._apply_waiting()
        for _, answer in self._waiting:
            answer.cancel()
        if self._webhook:
            await self._webhook.close(_CLOSE_TIMEOUT_S)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_store)
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while not await self._in_thread(self._open_store):  # noqa: ASYNC110  # the other process cannot notify us
            await asyncio.sleep(_LOCK_INTERVAL_S)
        await self._in_thread(self._monitor.load)
        self._is_open.set()
        recorded_at_s = compared_at_s = float("-inf")
        while True:
            await asyncio.sleep(_SAVE_INTERVAL_S)
            await self._apply_waiting()
            now_s = time.monotonic()
            if now_s - compared_at_s >= _TOGETHER_INTERVAL_S:
                compared_at_s = now_s
                self._publish(await self._in_thread(self._monitor.compare_together, time.time()))
            if now_s - recorded_at_s >= _RECORD_INTERVAL_S:
                recorded_at_s = now_s
                self._record(await self._in_thread(report_of, self._monitor), self._monitor.lost)
                await self._in_thread(self._hand_over_minutes)

    async def _apply_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        notices = await self._in_thread(self._apply, [report for report, _ in waiting])
        self._publish([notice for each in notices for notice in each if not notice.is_published])
        for (_, answer), found in zip(waiting, notices, strict=True):
            if not answer.done():  # the caller may have stopped waiting
                answer.set_result(found)

    def _apply(self, reports: list[Report]) -> list[list[Notice]]:
        notices = []
        for report in reports:
            try:
                notices.append(self._monitor.apply(report, time.time()))
            except Exception:  # a bug, which must not stop all other reports
                logger.exception("a report on drift was discarded")
                notices.append([])
        self._save()
        return notices

    def _save(self) -> None:
        """Save what has changed. If that fails, it is still in memory, and the next call saves it.

        If this process ends first, it is lost.
        """
        try:
            self._monitor.save(time.time())
        except ServeAppError as exc:
            if not self._is_save_failing:
                logger.error("the drift monitor's state cannot be saved: %s", exc.detail)
            self._is_save_failing = True
            return
        if self._is_save_failing:
            logger.info("the drift monitor's state is saved again")
        self._is_save_failing = False

    def _hand_over_minutes(self) -> None:
        before = int((time.time() - _MINUTE_DELAY_S) // 60)
        if minutes := self._monitor.finished_minutes(before):
            self._on_minutes(minutes)
            self._monitor.forget_minutes(before)
            self._save()

    def _forget(self, source: str) -> list[Notice]:
        notices = self._monitor.forget(source, time.time())
        self._save()
        return notices

    def _set_reference(self, new: NewReference) -> Notice | None:
        now_s = time.time()
        if new.reference is None:
            assert new.since_at_s is not None
            until_s = new.until_at_s or now_s
            return self._monitor.set_reference_of_hours(new.model, new.source, new.since_at_s, until_s, now_s)
        return self._monitor.set_reference(new.model, new.source, self._from_file(new.reference), now_s)

    def _from_file(self, file: ReferenceFile) -> Reference:
        hours = {}
        for one in file.hours:
            if len(one.counts) != BINS or min(one.counts) < 0 or max(one.counts) > np.iinfo(np.uint32).max:
                raise InvalidParameter(f"reference: each hour must have {BINS} counts of 0 or more")
            hours[one.hour] = np.array(one.counts, np.uint32)
        noise = {str(name): value for name, value in file.noise.items()}
        try:
            return Reference.of_hours(hours, window_images=self._window_images, blocks=file.blocks, noise=noise)
        except ValueError as exc:
            raise InvalidParameter(f"reference: {exc}") from exc

    def _publish(self, notices: list[Notice]) -> None:
        for notice in notices:
            change = change_of(notice)
            features = ", ".join(change.features)
            logger.info("drift of %s (model %s) %s: %s", notice.source, notice.model, notice.change, features)
            if self._webhook:
                self._webhook.put(change, notice.at_s)

    async def _wait_until_open(self) -> None:
        try:
            await asyncio.wait_for(self._is_open.wait(), _OPEN_TIMEOUT_S)
        except TimeoutError as exc:
            raise Unavailable("another drift monitor is still running; retry") from exc

    async def _call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await self._wait_until_open()
        return await self._in_thread(work, *args, **kwargs)

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
