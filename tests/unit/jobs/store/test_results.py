"""Tests of the stored results, and of how they expire."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from threading import Thread

import pytest

from serve_app.errors import Expired, NotFound, Unavailable
from serve_app.jobs.store import JobStore
from serve_app.jobs.units import CLIP_ITEMS, Item, NewUnit, UnitResult
from tests.support.job_stores import (
    NOW_S,
    audit_folder,
    claimed,
    clip,
    counters,
    created,
    finished,
    numbers,
    pictures,
    result_json,
    result_of,
)

MONTH_S = 30 * 86_400


def test_an_expired_job_keeps_its_counters_for_another_month(store: JobStore) -> None:
    job = finished(store, 1)
    created(store, job_id="other")
    assert job.expires_at_s
    assert store.expire(job.expires_at_s - 1) == []
    assert store.expire(job.expires_at_s) == ["night"]
    assert store.expire(job.expires_at_s) == []
    expired = store.job("night")
    assert (expired.state, counters(expired), expired.errors) == ("expired", (4, 3, 1, 0, 0), {"undecodable": 1})
    assert [json.loads(event.json)["state"] for event in store.events("night", -1)[0]] == ["expired"]
    for call in (
        lambda: store.answered("night"),
        lambda: list(store.results("night")),
        lambda: list(store.failures("night")),
        lambda: store.find("night", 0),
        lambda: store.retry("night", None, NOW_S),
    ):
        with pytest.raises(Expired, match="no longer kept"):
            call()
    assert store.expire(job.expires_at_s + MONTH_S - 1) == []
    assert store.expire(job.expires_at_s + MONTH_S) == ["night"]
    assert [job.spec.id for job in store.jobs()] == ["other"]


def test_a_deleted_job_leaves_nothing(store: JobStore, tmp_path: Path) -> None:
    finished(store, 1)
    store.delivered("night", 0, 1)
    finished(store, 2, job_id="other")
    store.delete("night")
    assert [failure.item for failure in store.failures("other")] == [2]
    store.close()
    audit_folder(tmp_path)


def test_answered_items_come_in_pages_by_number(store: JobStore) -> None:
    created(store, *(pictures(32, 32 * number) for number in range(8)), clip(4))
    for unit in store.claim("night", 9, NOW_S):
        store.commit(result_of(unit, failed=[unit.first + 1], frames=4), NOW_S)
    seen = list[int]()
    while page := store.answered("night", after=seen[-1] if seen else None, limit=7):
        assert len(page) <= 7
        seen += [answered.item for answered in page]
    assert seen == list(range(260))
    for state, count in (("failed", 9), ("succeeded", 251), (None, 260)):
        assert len(store.answered("night", state=state)) == count
    assert [answered.item for answered in store.answered("night", after=40, limit=2, state="failed")] == [65, 97]


def test_an_item_is_found_with_its_unit(store: JobStore) -> None:
    created(store, pictures(3), clip(10), pictures(1, 3), clip(10))
    first, second = store.claim("night", 2, NOW_S)
    store.commit(result_of(first, failed=[1], deferred=[2]), NOW_S)
    store.commit(result_of(second, frames=8), NOW_S)
    last = 3 + CLIP_ITEMS
    for item, number, kind in (
        (0, 0, "json"),
        (1, 0, "failure"),
        (2, 0, ""),
        (10, 1, "json"),
        (last, 2, ""),
        (last + 10, 3, ""),
    ):
        unit, answered = store.find("night", item)
        assert (unit.number, unit.items[0].name if unit.items else unit.clip and unit.clip.name) == (
            number,
            {0: "0.jpg", 1: "day.mp4", 2: "3.jpg", 3: "day.mp4"}[number],
        )
        assert (answered is None) == (kind == "")
        assert answered is None or (answered.json is not None) == (kind == "json")
    for item in (-1, 11, 3 + CLIP_ITEMS - 1, last + 11):
        with pytest.raises(NotFound, match=f"has no item {item}"):
            store.find("night", item)


def test_names_that_are_not_utf_8_can_fail(store: JobStore) -> None:
    created(store, NewUnit((Item("b\udc80.jpg"),)))
    for _ in range(4):
        store.release(claimed(store), NOW_S, suspect=True)
    assert [failure.name for failure in store.failures("night")] == ["b\\udc80.jpg"]


def test_results_are_read_in_one_thread_while_another_one_commits(store: JobStore) -> None:
    created(store, *(pictures(32, 32 * number) for number in range(100)))

    def work() -> None:
        while units := store.claim("night", 1, NOW_S):
            store.commit(result_of(units[0]), NOW_S)

    for unit in store.claim("night", 50, NOW_S):
        store.commit(result_of(unit), NOW_S)
    results = store.results("night")
    lines = [next(results)]
    worker = Thread(target=work)
    worker.start()
    lines += results
    worker.join()
    assert lines == [result_json("night", number) for number in range(len(lines))]
    assert len(lines) >= 1600
    assert len(list(store.results("night"))) == 3200


def test_reading_all_results_needs_little_memory(store: JobStore) -> None:
    created(store, *(pictures(32, 32 * number) for number in range(200)))
    for unit in store.claim("night", 200, NOW_S):
        done = tuple((number, json.dumps({"item": number, "text": "x" * 4000})) for number in numbers(unit))
        store.commit(UnitResult("night", unit.number, unit.attempt, done), NOW_S)
    tracemalloc.start()
    total = sum(len(line) for line in store.results("night"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 25_000_000
    assert peak < 2_000_000


def test_the_results_of_a_job_that_is_deleted_meanwhile_end_with_an_error(store: JobStore) -> None:
    created(store, *(pictures(1, number) for number in range(100)))
    for unit in store.claim("night", 100, NOW_S):
        store.commit(result_of(unit), NOW_S)
    results = store.results("night")
    next(results)
    store.delete("night")
    with pytest.raises(NotFound):
        list(results)


def test_a_closed_store_is_unavailable(store: JobStore) -> None:
    store.close()
    store.close()
    with pytest.raises(Unavailable, match="is closed"):
        store.jobs()
