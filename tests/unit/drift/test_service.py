"""Tests of the monitor behind its event loop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from serve_app.drift import service as module
from serve_app.drift.monitor import Monitor
from serve_app.drift.service import DriftService
from serve_app.drift.store import DriftStore
from serve_app.drift.tally import MinuteCounts
from serve_app.errors import InvalidParameter, NoSpace, NotFound, Unavailable
from serve_app.schemas.drift import NewReference, ReferenceFile, SourceDrift
from tests.support.api import until
from tests.support.drift import ARGS, images, report

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SAVE_INTERVAL_S", "_RECORD_INTERVAL_S", "_TOGETHER_INTERVAL_S", "_LOCK_INTERVAL_S"):
        monkeypatch.setattr(module, name, 0.01)


@asynccontextmanager
async def serving(
    folder: Path,
    record: Callable[[list[SourceDrift], int], None] = lambda sources, lost: None,
    on_minutes: Callable[[list[MinuteCounts]], None] = lambda minutes: None,
) -> AsyncIterator[DriftService]:
    store = DriftStore(folder)
    service = DriftService(
        Monitor(store, ARGS),
        store.acquire,
        store.close,
        window_images=ARGS.window_images,
        record=record,
        on_minutes=on_minutes,
    )
    try:
        yield service
    finally:
        await service.close()


async def feed(service: DriftService, first: int, count: int, brightness: float = 120) -> None:
    for number in range(first, first + count):
        await service.report(report(number, images(50, brightness=brightness), source="key/dock"))


async def images_of(service: DriftService) -> int:
    return sum(one.reference.images for one in await service.sources() if one.reference)


async def test_a_report_is_on_the_disk_when_it_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        await feed(service, 0, 2)
        before = await service.reference("default", "key/dock")
    async with serving(tmp_path) as service:
        assert await service.reference("default", "key/dock") == before


async def test_a_second_monitor_waits_until_the_first_has_closed_the_store(tmp_path: Path) -> None:
    first = AsyncExitStack()
    await feed(await first.enter_async_context(serving(tmp_path)), 0, 1)
    async with serving(tmp_path) as second:
        waiting = asyncio.create_task(second.report(report(1, images(50), source="key/dock")))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await first.aclose()
        await waiting
        assert await images_of(second) == 100


async def test_counts_are_handed_over_once_while_the_disk_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_over: list[MinuteCounts] = []
    store = DriftStore(tmp_path)
    service = DriftService(
        Monitor(store, ARGS), store.acquire, store.close, window_images=100, on_minutes=handed_over.extend
    )
    save, failing = DriftStore.transaction, True

    @contextmanager
    def transaction(self: DriftStore) -> Iterator[None]:
        connection = self._opened
        connection.execute(f"PRAGMA query_only = {int(failing)}")
        with save(self):
            yield

    monkeypatch.setattr(DriftStore, "transaction", transaction)
    for number in range(2):
        counts = MinuteCounts("default", "key/dock", 1000 + number, 50, Counter(person=50))
        await service.report(report(number, images(50), source="key/dock", minutes=(counts,)))
        await until(lambda wanted=number + 1: len(handed_over) == wanted)  # type: ignore[misc]
    service.check()
    failing = False
    await service.report(report(2, images(50), source="key/dock"))
    await service.close()
    async with serving(tmp_path, on_minutes=handed_over.extend) as service:
        assert await images_of(service) == 150
        await asyncio.sleep(0.1)
    assert [one.minute for one in handed_over] == [1000, 1001]


async def test_reports_are_answered_while_the_disk_is_full_and_saved_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Monitor, now_s: float) -> None:
        raise NoSpace("the disk is full")

    async with serving(tmp_path) as service:
        await feed(service, 0, 1)
        with monkeypatch.context() as patch:
            patch.setattr(Monitor, "save", fail)
            await feed(service, 1, 2)
        await feed(service, 3, 1)
    assert caplog.text.count("cannot be saved: the disk is full") == 1
    async with serving(tmp_path) as service:
        assert await images_of(service) == 200


async def test_the_sources_are_recorded_and_finished_minutes_handed_over_once(tmp_path: Path) -> None:
    recorded: list[list[SourceDrift]] = []
    minutes: list[MinuteCounts] = []
    async with serving(tmp_path, lambda sources, lost: recorded.append(sources), minutes.extend) as service:
        minute = int(time.time() // 60) - 2
        counts = MinuteCounts("default", "key/dock", minute, 50)
        await service.report(report(0, images(50), source="key/dock", minutes=(counts,)))
        while not (minutes and recorded and recorded[-1]):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
    assert [(one.minute, one.images) for one in minutes] == [(minute, 50)]


async def test_a_reference_can_be_saved_and_used_for_another_source(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        await feed(service, 0, 8)
        saved = await service.reference("default", "key/dock")
        await service.report(report(100, images(50), source="http"))
        status = await service.set_reference(
            NewReference(source="http", reference=ReferenceFile.model_validate_json(saved.model_dump_json()))
        )
        assert status.reference is not None
        assert (status.reference.images, status.reference.origin) == (400, "set")


@pytest.mark.parametrize("counts", [[], [1, 2, 3], [-1] * 249, [2**40] * 249, [10**30] * 249, [0] * 249])
async def test_a_file_with_other_counts_is_refused(counts: list[int], tmp_path: Path) -> None:
    file = ReferenceFile.model_validate({"hours": [{"hour": 3, "counts": counts}], "blocks": 0, "noise": {}})
    async with serving(tmp_path) as service:
        await feed(service, 0, 1)
        with pytest.raises(InvalidParameter, match=r"^reference: "):
            await service.set_reference(NewReference(source="key/dock", reference=file))


@pytest.mark.parametrize("times", ['"since_at_s": 1e300', '"since_at_s": 1e999', '"since_at_s": 0, "until_at_s": 1e30'])
def test_a_range_of_time_that_no_clock_has_is_refused(times: str) -> None:
    with pytest.raises(ValidationError, match="less than or equal to"):
        NewReference.model_validate_json(f'{{"source": "key/dock", {times}}}')


async def test_an_unknown_source_is_not_found(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        for call in (service.histograms, service.reference):
            with pytest.raises(NotFound):
                await call("default", "key/none")


async def test_calls_are_refused_while_another_monitor_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPEN_TIMEOUT_S", 0.01)
    store = DriftStore(tmp_path)
    assert store.acquire()
    async with serving(tmp_path) as service:
        with pytest.raises(Unavailable):
            await service.sources()
        store.close()
