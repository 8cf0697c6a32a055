"""Tests of the stored units, and of the counters of their jobs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.errors import Conflict
from serve_app.jobs.store import Answered, JobStore
from serve_app.jobs.units import CLIP_ITEMS, Clip, Deferred, Item, NewUnit, UnitResult
from serve_app.schemas.jobs import JobFailure, UnitCounts
from tests.support.job_stores import (
    NOW_S,
    audit_folder,
    claimed,
    clip,
    counters,
    created,
    numbers,
    opened,
    pictures,
    result_json,
    result_of,
)

MONTH_S = 30 * 86_400


def test_a_unit_is_claimed_as_it_was_added(store: JobStore) -> None:
    items = (Item("a.jpg", 5, "etag", 512, "my-id"), Item("b\udc80\n\x00é.jpg"))
    piece = Clip("day.mp4", 10.0, math.inf, 300, 250, "etag-2")
    created(store, NewUnit(items), NewUnit(clip=piece), pictures(1))
    first, second, third = store.claim("night", 5, NOW_S)
    assert (first.number, first.attempt, first.first, first.items, first.clip, first.todo) == (
        0,
        1,
        0,
        items,
        None,
        None,
    )
    assert (second.number, second.first, second.items, second.clip, second.is_suspect) == (1, 2, (), piece, False)
    assert (third.number, third.first) == (2, 2 + CLIP_ITEMS)
    assert store.claim("night", 5, NOW_S) == []
    assert counters(store.job("night")) == (303, 0, 0, 0, 303)


def test_units_are_added_with_the_place_where_the_listing_continues(store: JobStore, tmp_path: Path) -> None:
    created(store)
    store.add_units("night", [pictures(2)], cursor="1\udc80.jpg", listed=False)
    store.close()
    store = opened(tmp_path)
    assert (store.job("night").cursor, store.job("night").listed) == ("1\udc80.jpg", False)
    job = store.add_units("night", [pictures(2, 2), pictures(1, 4)], cursor=None, listed=True)
    assert (job.cursor, job.listed, job.items) == (None, True, 5)
    assert [unit.first for unit in store.claim("night", 9, NOW_S)] == [0, 2, 4]
    with pytest.raises(ValueError, match="neither items nor a clip"):
        store.add_units("night", [NewUnit()], cursor=None, listed=True)


def test_a_commit_stores_results_and_failures_and_counts_them(store: JobStore) -> None:
    created(store, pictures(4), pictures(4, 4))
    assert store.commit(result_of(claimed(store), failed=[2]), NOW_S)
    job = store.job("night")
    assert counters(job) == (8, 3, 1, 4, 0)
    assert job.units == UnitCounts(open=1, done=1)
    assert (job.errors, job.detections, job.models) == ({"undecodable": 1}, {"person": 6}, {"default@1": 3})
    failure = JobFailure(job_id="night", item=2, name="2.jpg", code="undecodable", detail="the image is damaged")
    assert store.answered("night") == [
        *(Answered(number, result_json("night", number)) for number in (0, 1)),
        Answered(2, None, failure),
        Answered(3, result_json("night", 3)),
    ]
    assert list(store.results("night")) == [result_json("night", number) for number in (0, 1, 3)]
    assert list(store.failures("night")) == [failure]


def test_a_late_result_of_an_earlier_attempt_is_refused(store: JobStore) -> None:
    created(store, pictures(2))
    early = claimed(store)
    store.release(early, NOW_S, suspect=False)
    assert not store.commit(result_of(early), NOW_S)
    late = claimed(store)
    assert late.attempt == early.attempt + 1
    assert not store.commit(result_of(early), NOW_S)
    store.release(early, NOW_S, suspect=True)  # which is as late
    assert store.commit(result_of(late), NOW_S)
    assert not store.commit(result_of(late), NOW_S)
    assert counters(store.job("night")) == (2, 2, 0, 0, 0)
    assert store.job("night").units == UnitCounts(done=1, repeated=1)


@pytest.mark.parametrize("state", ["cancelling", "cancelled", "failed"])
def test_a_stopped_job_takes_no_results_and_gives_no_units(store: JobStore, state: str) -> None:
    created(store, pictures(2), pictures(2, 2))
    unit = claimed(store)
    job = store.set_state("night", state, NOW_S)  # type: ignore[arg-type]
    assert counters(job) == ((4, 0, 0, 2, 2) if state == "cancelling" else (4, 0, 0, 4, 0))
    assert not store.commit(result_of(unit), NOW_S)
    assert store.claim("night", 1, NOW_S) == []
    assert store.add_units("night", [pictures(1)], cursor=None, listed=True).items == 4


def test_the_result_of_a_forgotten_job_is_refused(store: JobStore) -> None:
    created(store, pictures(2))
    unit = claimed(store)
    store.delete("night")
    assert not store.commit(result_of(unit), NOW_S)
    store.release(unit, NOW_S, suspect=True)
    assert store.jobs() == []


def test_a_result_that_is_not_for_exactly_the_items_is_refused(store: JobStore, tmp_path: Path) -> None:
    created(store, pictures(3), clip())
    images, frames = store.claim("night", 2, NOW_S)
    good = result_of(images)
    for wrong in (
        UnitResult("night", 0, 1, good.results[:2]),
        UnitResult("night", 0, 1, (*good.results, (3, "{}"))),
        UnitResult("night", 0, 1, (*good.results, good.results[0])),
        UnitResult("night", 0, 1, good.results, (), Deferred((0,), "unavailable", "", 1)),
        UnitResult("night", 0, 1, good.results, (), Deferred(None, "unavailable", "", 1)),
        UnitResult("night", 1, 1, ((frames.first + CLIP_ITEMS, "{}"),)),
        UnitResult("night", 1, 1, ((0, "{}"),)),
    ):
        with pytest.raises(ValueError, match="is not for exactly its items"):
            store.commit(wrong, NOW_S)
    assert store.job("night").units.out == 2
    store.close()
    audit_folder(tmp_path)


def test_deferred_items_are_done_later_and_then_join_the_others(store: JobStore) -> None:
    created(store, pictures(4), pictures(1, 4))
    assert store.commit(result_of(claimed(store), failed=[0], deferred=[1, 3], retry_after_s=5), NOW_S)
    assert counters(store.job("night")) == (5, 1, 1, 3, 0)
    assert store.job("night").units == UnitCounts(open=2)
    assert store.next_pause_s("night", NOW_S + 2) == 3
    assert [unit.number for unit in store.claim("night", 9, NOW_S + 4)] == [1]
    unit = claimed(store, now_s=NOW_S + 5)
    assert (unit.number, unit.attempt, unit.todo, numbers(unit)) == (0, 2, (1, 3), [1, 3])
    assert store.next_pause_s("night", NOW_S + 5) is None
    assert store.commit(result_of(unit), NOW_S + 6)
    assert list(store.results("night")) == [result_json("night", number) for number in (1, 2, 3)]


def test_a_whole_unit_can_be_deferred(store: JobStore) -> None:
    created(store, clip(), pictures(2))
    for unit in store.claim("night", 2, NOW_S):
        assert store.commit(
            UnitResult("night", unit.number, unit.attempt, (), (), Deferred(None, "no_space", "full", 0)), NOW_S
        )
    assert counters(store.job("night")) == (302, 0, 0, 302, 0)
    assert [unit.todo for unit in store.claim("night", 2, NOW_S)] == [None, None]


def test_a_unit_of_which_nothing_is_deferred_is_done(store: JobStore) -> None:
    created(store, pictures(2))
    result = replace(result_of(claimed(store)), deferred=Deferred((), "unavailable", "", 5))
    assert store.commit(result, NOW_S)
    assert store.job("night").units == UnitCounts(done=1)


def test_a_clip_counts_as_its_expected_frames_until_it_is_done(store: JobStore) -> None:
    assert counters(created(store, clip(300), clip(10))) == (310, 0, 0, 310, 0)
    first, second = store.claim("night", 2, NOW_S)
    assert store.commit(result_of(first, frames=298, failed=[7]), NOW_S)
    assert counters(store.job("night")) == (308, 297, 1, 0, 10)
    assert store.commit(result_of(second, frames=12, deferred=[second.first + 4], retry_after_s=0), NOW_S)
    assert counters(store.job("night")) == (310, 308, 1, 1, 0)
    unit = claimed(store)
    assert (unit.number, unit.todo) == (1, (second.first + 4,))
    assert store.commit(UnitResult("night", 1, 2, ()), NOW_S)  # the frame is not there after all
    assert counters(store.job("night")) == (309, 308, 1, 0, 0)


def test_a_clip_that_is_tried_again_keeps_its_answers_and_gets_the_others(store: JobStore) -> None:
    created(store, clip(10))
    assert store.commit(result_of(claimed(store), frames=4, failed=[3]), NOW_S)  # nothing after frame 3 can be decoded
    assert counters(store.job("night")) == (4, 3, 1, 0, 0)
    store.retry("night", None, NOW_S)
    assert store.commit(result_of(claimed(store), frames=9, failed=[0, 7]), NOW_S)
    job = store.job("night")
    assert counters(job) == (9, 8, 1, 0, 0)
    assert (job.detections, job.models, job.errors) == ({"person": 16}, {"default@1": 8}, {"undecodable": 1})
    assert list(store.results("night")) == [result_json("night", number) for number in range(9) if number != 7]


def test_a_clip_without_frames_is_done(store: JobStore) -> None:
    created(store, clip(0), clip(5))
    for unit in store.claim("night", 2, NOW_S):
        assert store.commit(result_of(unit, frames=0), NOW_S)
    job = store.set_state("night", "completed", NOW_S)
    assert counters(job) == (0, 0, 0, 0, 0)
    assert job.units == UnitCounts(done=2)


def test_only_the_image_that_kills_runners_alone_is_poison(store: JobStore) -> None:
    created(store, pictures(5))
    store.commit(result_of(claimed(store), deferred=[1, 2, 3, 4], retry_after_s=0), NOW_S)
    seen = []
    while store.job("night").units.open:
        unit = claimed(store)
        seen.append((unit.is_suspect, numbers(unit)))
        if 2 in numbers(unit):
            store.release(unit, NOW_S, suspect=True)
        else:
            assert store.commit(result_of(unit), NOW_S)
    assert seen[:2] == [(False, [1, 2, 3, 4]), (True, [1, 2, 3, 4])]
    assert seen[2:] == [(True, [1]), (True, [2]), (True, [2]), (True, [3]), (True, [4])]
    job = store.job("night")
    assert (counters(job), job.errors) == ((5, 4, 1, 0, 0), {"poison": 1})
    assert job.units == UnitCounts(done=1, repeated=4)
    assert [(failure.item, failure.name) for failure in store.failures("night")] == [(2, "2.jpg")]
    assert list(store.results("night")) == [result_json("night", number) for number in (0, 1, 3, 4)]


def test_deaths_whose_cause_is_elsewhere_make_no_image_poison(store: JobStore) -> None:
    created(store, pictures(4))
    for _ in range(2):
        store.release(claimed(store), NOW_S, suspect=True)
    for number in range(4):  # a runner dies once during each image
        store.release(claimed(store), NOW_S, suspect=True)
        unit = claimed(store)
        assert numbers(unit) == [number]
        assert store.commit(result_of(unit), NOW_S)
    assert counters(store.job("night")) == (4, 4, 0, 0, 0)


def test_an_image_that_is_claimed_alone_may_fail_or_be_deferred(store: JobStore) -> None:
    created(store, pictures(3))
    for _ in range(2):
        store.release(claimed(store), NOW_S, suspect=True)
    assert store.commit(result_of(claimed(store), deferred=[0], retry_after_s=5), NOW_S)
    assert store.claim("night", 1, NOW_S + 4) == []
    assert store.commit(result_of(claimed(store, now_s=NOW_S + 5), failed=[0]), NOW_S)
    assert store.find("night", 2)[0].todo == (1, 2)
    for _ in range(2):
        assert store.commit(result_of(claimed(store)), NOW_S)
    assert counters(store.job("night")) == (3, 2, 1, 0, 0)
    assert store.job("night").units == UnitCounts(done=1, repeated=2)


def test_a_poison_image_that_is_retried_is_suspect(store: JobStore) -> None:
    created(store, pictures(1))
    for _ in range(4):
        store.release(claimed(store), NOW_S, suspect=True)
    assert store.job("night").errors == {"poison": 1}
    store.retry("night", None, NOW_S)
    unit = claimed(store)
    assert unit.is_suspect
    store.release(unit, NOW_S, suspect=True)
    assert counters(store.job("night")) == (1, 0, 0, 1, 0)  # the deaths before the retry count as one


def test_a_clip_during_which_four_runners_died_is_one_failed_item(store: JobStore) -> None:
    created(store, pictures(1), clip(300))
    store.commit(result_of(claimed(store)), NOW_S)
    for _ in range(4):
        store.release(claimed(store), NOW_S, suspect=True)
    assert counters(store.job("night")) == (2, 1, 1, 0, 0)
    assert [(failure.item, failure.name) for failure in store.failures("night")] == [(1, "day.mp4")]
    assert counters(store.retry("night", {"poison"}, NOW_S)) == (301, 1, 0, 300, 0)
    assert claimed(store).todo is None


def test_a_released_unit_waits_for_its_pause(store: JobStore) -> None:
    created(store, pictures(1))
    store.release(claimed(store), NOW_S, suspect=False, pause_s=3)
    assert store.job("night").units == UnitCounts(open=1, repeated=1)
    assert store.claim("night", 1, NOW_S + 2.9) == []
    unit = claimed(store, now_s=NOW_S + 3)
    assert not unit.is_suspect


def test_retry_opens_the_failed_items_alone(store: JobStore) -> None:
    created(store, pictures(4), pictures(4, 4), pictures(4, 8))
    first, second, third = store.claim("night", 3, NOW_S)
    store.commit(result_of(first, failed=[1, 2]), NOW_S)
    store.commit(result_of(second, failed=[5], code="missing"), NOW_S)
    store.commit(result_of(third), NOW_S)
    store.set_state("night", "completed", NOW_S)
    job = store.retry("night", ["missing"], NOW_S)
    assert (job.state, counters(job), job.errors) == ("running", (12, 9, 2, 1, 0), {"undecodable": 2})
    (unit,) = store.claim("night", 9, NOW_S)
    assert (unit.number, unit.todo) == (1, (5,))
    assert store.commit(result_of(unit), NOW_S)
    assert counters(store.retry("night", None, NOW_S)) == (12, 10, 0, 2, 0)
    (unit,) = store.claim("night", 9, NOW_S)
    assert store.commit(result_of(unit, failed=[2]), NOW_S)
    assert counters(store.job("night")) == (12, 11, 1, 0, 0)
    assert list(store.results("night")) == [result_json("night", number) for number in range(12) if number != 2]


def test_retry_leaves_units_that_are_out_as_they_are(store: JobStore) -> None:
    created(store, pictures(3))
    store.commit(result_of(claimed(store), failed=[0], deferred=[1], retry_after_s=0), NOW_S)
    unit = claimed(store)
    assert store.retry("night", None, NOW_S).failed == 1
    assert store.commit(result_of(unit, deferred=[1]), NOW_S)
    assert store.retry("night", None, NOW_S).failed == 0
    assert claimed(store, now_s=NOW_S + 5).todo == (0, 1)


@pytest.mark.parametrize("state", ["queued", "cancelling", "finishing", "paused", "blocked"])
def test_a_job_in_another_state_cannot_be_retried(store: JobStore, state: str) -> None:
    created(store)
    store.set_state("night", state, NOW_S)  # type: ignore[arg-type]
    with pytest.raises(Conflict, match=f"is {state}"):
        store.retry("night", None, NOW_S)
