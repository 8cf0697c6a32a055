"""The events of jobs, which clients wait for and which are sent to the jobs' webhooks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from serve_app.errors import ServeAppError
from serve_app.jobs.active import ActiveJob, progress_of
from serve_app.jobs.ledger import Ledger
from serve_app.jobs.store import Job
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.jobs import AT_REST
from serve_app.schemas.sinks import SinkStatus
from serve_app.sinks import Outlet, Sink, open_outlet
from serve_app.sinks.outlet import DeliveryRefused
from serve_app.types import Event, EventPage

_PROGRESS_INTERVAL_S = 1.0
_DRAIN_INTERVAL_S = 1.0
_CLOSE_TIMEOUT_S = 5.0


class _Feed:
    """The events of one job."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()  # set when there is a new event
        self.sinks: list[Sink] = []
        self.pump: asyncio.Task[None] | None = None
        self.is_last = False  # the job is at rest, so no more events will come

    def notify(self) -> None:
        """Wake all clients that wait for an event."""
        self.changed.set()
        self.changed = asyncio.Event()


class _RecordedOutlet:
    """An outlet that stores which events it has sent, so that a later supervisor sends the others.

    An event may be sent twice if the supervisor dies between the two.
    """

    def __init__(self, outlet: Outlet, delivered: Callable[[int], None], ledger: Ledger) -> None:
        self.target = outlet.target
        self.max_batch = outlet.max_batch
        self._outlet = outlet
        self._delivered = delivered
        self._ledger = ledger

    async def send(self, events: list[Event]) -> None:
        """Send the events, in order."""
        try:
            await self._outlet.send(events)
        except DeliveryRefused:
            await self._store(events)
            raise
        await self._store(events)

    async def close(self) -> None:
        """Close all connections of the outlet."""
        await self._outlet.close()

    async def _store(self, events: list[Event]) -> None:
        with suppress(ServeAppError):  # the job was deleted or the disk is full: the events may be sent again
            await self._ledger.call(self._delivered, events[-1].event_id)


class Feeds:
    """The events of all jobs."""

    def __init__(self, ledger: Ledger, guard: AddressGuard) -> None:
        self._ledger = ledger
        self._guard = guard
        self._feeds: dict[str, _Feed] = {}
        self._progressed: dict[str, ActiveJob] = {}
        self._has_progress = asyncio.Event()

    def open(self, job: Job) -> None:
        """Send a job's events to its sinks, beginning with the first one that was not sent yet."""
        feed = self._feed(job.spec.id)
        feed.is_last = job.state in AT_REST
        if job.spec.sinks and feed.pump is None:
            feed.pump = asyncio.create_task(self._pump(feed, job), name=f"events of job {job.spec.id}")

    def notify(self, job: Job) -> None:
        """Wake all clients that wait for an event of this job."""
        feed = self._feed(job.spec.id)
        feed.is_last = job.state in AT_REST
        feed.notify()

    def progressed(self, work: ActiveJob) -> None:
        """Add an event ``progress`` soon, but at most once per second."""
        self._progressed[work.id] = work
        self._has_progress.set()

    async def report_progress(self) -> None:
        """Add the events ``progress``, indefinitely."""
        while True:
            await self._has_progress.wait()
            self._has_progress.clear()
            progressed, self._progressed = self._progressed, {}
            for work in progressed.values():
                await self._add_progress(work)
            await asyncio.sleep(_PROGRESS_INTERVAL_S)

    async def flush(self, work: ActiveJob) -> None:
        """Add an event with the last progress of a job that ends."""
        if self._progressed.pop(work.id, None):
            await self._add_progress(work)

    async def page(self, job_id: str, after: int | None, within_s: float) -> EventPage:
        """Wait until there is an event with an id above ``after``, and return such events.

        If ``after`` is None, wait for the next event. Return an empty page after ``within_s`` seconds without an event.
        """
        loop = asyncio.get_running_loop()
        expires_at_s = loop.time() + within_s
        while True:
            changed = self._feed(job_id).changed
            events, newest, missed = await self._ledger.call(self._ledger.store.events, job_id, after)
            if after is None:
                events, missed, after = [], 0, newest
            if events:
                return EventPage(events, events[-1].event_id, missed)
            try:
                async with asyncio.timeout_at(expires_at_s):
                    await changed.wait()
            except TimeoutError:
                return EventPage([], min(after, newest), 0)

    def sinks(self, job_id: str) -> list[SinkStatus]:
        """Return the status of a job's sinks."""
        feed = self._feeds.get(job_id)
        return [sink.status() for sink in feed.sinks] if feed else []

    async def forget(self, job_id: str) -> None:
        """Stop sending the events of a job whose items are no longer kept."""
        if (feed := self._feeds.pop(job_id, None)) and feed.pump:
            feed.pump.cancel()
            await asyncio.gather(feed.pump, return_exceptions=True)
            await _close(feed, 0)

    async def close(self) -> None:
        """Stop sending events. The next supervisor sends what was not sent."""
        pumps = [feed.pump for feed in self._feeds.values() if feed.pump]
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        await asyncio.gather(*(_close(feed, _CLOSE_TIMEOUT_S) for feed in self._feeds.values()))

    def _feed(self, job_id: str) -> _Feed:
        return self._feeds.setdefault(job_id, _Feed())

    async def _add_progress(self, work: ActiveJob) -> None:
        store, loop = self._ledger.store, asyncio.get_running_loop()
        body = progress_of(work.job, work, loop.time()).model_dump_json()
        with suppress(ServeAppError):  # the job was deleted, or the disk is full
            await self._ledger.call(store.add_event, work.id, "progress", body, time.time())
            self._feed(work.id).notify()

    async def _pump(self, feed: _Feed, job: Job) -> None:
        """Give the job's events to its sinks. Close the sinks when the job is at rest and all its events are sent.

        The job may be retried at any time until this has returned, because ``open`` starts no second pump.
        """
        try:
            while True:
                changed = await self._pump_to_rest(feed, job)
                await _close(feed, 0)
                if feed.is_last and feed.changed is changed:  # else the job was retried meanwhile
                    return
        except ServeAppError:
            pass  # the job was deleted
        finally:
            feed.pump = None

    async def _pump_to_rest(self, feed: _Feed, job: Job) -> asyncio.Event:
        """Open the job's sinks, and give them its events until it is at rest and all events are sent.

        Return ``feed.changed`` as it was when the events were last read.
        """
        store, job_id = self._ledger.store, job.spec.id
        feed.sinks, sent = [], []
        for index, spec in enumerate(job.spec.sinks):
            sent.append(await self._ledger.call(store.last_delivered, job_id, index))
            outlet = _RecordedOutlet(
                open_outlet(spec, job_id, None, self._guard),
                lambda event_id, index=index: store.delivered(job_id, index, event_id),  # type: ignore[misc]
                self._ledger,
            )
            feed.sinks.append(Sink(spec.type, outlet, subject=f"job {job_id}", events=spec.events))
        after = min(sent)
        while True:
            changed, is_last = feed.changed, feed.is_last
            events, _, _ = await self._ledger.call(store.events, job_id, after)
            for event in events:
                after = event.event_id
                for sink, last_sent in zip(feed.sinks, sent, strict=True):
                    if event.event_id > last_sent:
                        sink.put(event)
            if events:
                continue
            if not is_last:
                await changed.wait()
            elif any(sink.status().waiting for sink in feed.sinks):  # a sink does not notify us when it has sent them
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), _DRAIN_INTERVAL_S)
            else:
                return changed


async def _close(feed: _Feed, timeout_s: float) -> None:
    await asyncio.gather(*(sink.close(timeout_s) for sink in feed.sinks))
