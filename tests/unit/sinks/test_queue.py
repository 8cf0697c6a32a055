"""The queue of events in every sink."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest
from anyio import wait_all_tasks_blocked

from serve_app.sinks import Sink, queue
from serve_app.sinks.outlet import DeliveryFailed, DeliveryRefused
from serve_app.types import Event
from tests.support.sinks import event, until

pytestmark = pytest.mark.anyio


class GatedOutlet:
    """An outlet whose ``send`` waits for the gate. Each release of the gate lets one call return.

    The first calls raise ``failures``, and later calls succeed. The outlet records all batches.
    """

    target = "test"
    max_batch = 4

    def __init__(self, *failures: Exception) -> None:
        self.batches: list[list[Event]] = []
        self.gate = asyncio.Semaphore(0)
        self.is_closed = False
        self._failures = iter(failures)

    async def send(self, events: list[Event]) -> None:
        self.batches.append(events)
        await self.gate.acquire()
        if failure := next(self._failures, None):
            raise failure

    async def close(self) -> None:
        self.is_closed = True

    def ids(self) -> list[list[int]]:
        return [[event.event_id for event in batch] for batch in self.batches]

    def open(self) -> None:
        """Let all further calls of ``send`` return."""
        for _ in range(10_000):
            self.gate.release()


def sink_of(outlet: Any, events: tuple[str, ...] = ("result",)) -> Sink:
    return Sink("test", outlet, subject="stream lot", events=events)


async def test_events_that_arrive_during_a_batch_form_the_next_one() -> None:
    outlet = GatedOutlet()
    sink = sink_of(outlet)
    sink.put(event(0))
    await wait_all_tasks_blocked()
    for event_id in range(1, 7):
        sink.put(event(event_id))
    outlet.open()
    await sink.close(60)
    assert outlet.ids() == [[0], [1, 2, 3, 4], [5, 6]]
    assert (sink.status().sent, sink.status().waiting, sink.status().dropped) == (7, 0, {})


async def test_only_the_wanted_types_are_taken() -> None:
    outlet = GatedOutlet()
    outlet.open()
    sink = sink_of(outlet, ("state", "line"))
    for event_id, kind in enumerate(("result", "state", "gap", "line", "zone")):
        sink.put(event(event_id, kind))
    await sink.close(60)
    assert outlet.ids() == [[1, 3]]
    assert (sink.status().sent, sink.status().dropped) == (2, {})


async def test_a_full_queue_drops_its_oldest_events_and_counts_them() -> None:
    outlet = GatedOutlet()
    sink = sink_of(outlet)
    sink.put(event(0))
    await wait_all_tasks_blocked()
    for event_id in range(1, 1011):
        sink.put(event(event_id))
    status = sink.status()
    assert (status.sent, status.waiting, status.dropped) == (0, 1001, {"queue_full": 10})
    outlet.open()
    await sink.close(60)
    assert list(itertools.chain(*outlet.ids())) == [0, *range(11, 1011)]
    assert sink.status().sent == 1001


async def test_a_failed_batch_is_retried_and_the_detail_says_why() -> None:
    outlet = GatedOutlet(DeliveryFailed("no answer"), DeliveryFailed("still no answer"))
    sink = sink_of(outlet)
    sink.put(event(0))
    outlet.gate.release()
    await until(lambda: sink.status().detail == "no answer")
    sink.put(event(1))
    outlet.open()
    await until(lambda: sink.status().sent == 2)
    assert outlet.ids() == [[0], [0], [0], [1]]
    assert outlet.batches[0] is outlet.batches[1] is outlet.batches[2]
    assert sink.status().detail == ""
    await sink.close(0)


@pytest.mark.parametrize(
    ("failure", "detail"),
    [
        (DeliveryRefused("the server answered 404"), "the server answered 404"),
        (ValueError("hunter2"), "the events cannot be sent: ValueError"),
    ],
)
async def test_a_batch_that_is_refused_is_dropped_and_the_next_one_is_sent(failure: Exception, detail: str) -> None:
    outlet = GatedOutlet(failure)
    sink = sink_of(outlet)
    for event_id in range(6):
        sink.put(event(event_id))
    outlet.gate.release()
    await until(lambda: sink.status().dropped)
    assert (sink.status().dropped, sink.status().detail) == ({"refused": 4}, detail)
    outlet.open()
    await sink.close(60)
    assert (sink.status().sent, sink.status().detail) == (2, "")


async def test_events_that_are_not_sent_in_time_are_dropped_on_close() -> None:
    outlet = GatedOutlet()
    sink = sink_of(outlet)
    for event_id in range(6):
        sink.put(event(event_id))
    await sink.close(0)
    sink.put(event(6))
    status = sink.status()
    assert (status.sent, status.waiting, status.dropped) == (0, 0, {"closed": 7})
    assert outlet.is_closed


async def test_a_sink_without_an_event_closes() -> None:
    outlet = GatedOutlet()
    await sink_of(outlet).close(60)
    assert outlet.is_closed


async def test_closing_does_not_wait_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "retry_pauses_s", lambda: itertools.repeat(3600.0))
    outlet = GatedOutlet(DeliveryFailed("unreachable"), DeliveryFailed("still unreachable"))
    outlet.open()
    sink = sink_of(outlet)
    sink.put(event(0))
    await until(lambda: sink.status().detail)
    await sink.close(60)
    assert sink.status().sent == 1


def test_retry_pauses_double_up_to_a_limit() -> None:
    longest_s = [0.2 * 2**attempt for attempt in range(8)] + [30.0] * 3000
    for pause_s, limit_s in zip(queue.retry_pauses_s(), longest_s, strict=False):
        assert limit_s / 2 <= pause_s <= limit_s


@pytest.mark.parametrize("seed", range(20))
async def test_every_event_is_sent_dropped_or_waiting(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "retry_pauses_s", lambda: itertools.repeat(0.0))
    monkeypatch.setattr(queue, "_MAX_WAITING", 8)
    chance = random.Random(seed)
    failures = (DeliveryFailed("later"), DeliveryRefused("no"), KeyError("bug"), None)
    outlet = GatedOutlet(*(chance.choice(failures) for _ in range(100)))  # type: ignore[arg-type]
    sink = sink_of(outlet)

    def accounted() -> int:
        status = sink.status()
        return status.sent + status.waiting + sum(status.dropped.values())

    for event_id in range(300):
        sink.put(event(event_id))
        assert accounted() == event_id + 1
        for _ in range(chance.randrange(3)):
            outlet.gate.release()
            await asyncio.sleep(0)
        assert accounted() == event_id + 1
    await sink.close(0)
    assert accounted() == 300
    assert sink.status().waiting == 0
