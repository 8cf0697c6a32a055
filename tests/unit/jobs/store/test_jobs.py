"""Tests of the stored jobs: their owners, states and events."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve_app.errors import Conflict, NotFound
from serve_app.jobs.store import JobStore
from serve_app.schemas.jobs import UnitCounts
from tests.support.job_stores import (
    NOW_S,
    claimed,
    counters,
    created,
    finished,
    opened,
    pictures,
    result_of,
    spec,
)

MONTH_S = 30 * 86_400


def test_a_job_is_read_as_it_was_created(store: JobStore, tmp_path: Path) -> None:
    wanted = spec(
        tags={"site": "dock"}, sinks=[{"type": "webhook", "url": "https://a.example/", "secret": "whsec_YQ=="}]
    )
    new = store.create(wanted, owner="night-shift", source="dock", state="queued", now_s=NOW_S, units=[pictures(3)])
    store.close()
    job = opened(tmp_path).job("night")
    assert job == new
    assert (job.spec, job.owner, job.source, job.state) == (wanted, "night-shift", "dock", "queued")
    assert (job.created_at_s, job.started_at_s, job.finished_at_s, job.listed) == (NOW_S, None, None, False)
    assert counters(job) == (3, 0, 0, 3, 0)
    assert job.units == UnitCounts(open=1)


def test_an_id_is_taken_even_after_its_job_has_expired(store: JobStore) -> None:
    finished(store)
    store.expire(NOW_S + 10 * MONTH_S)
    with pytest.raises(Conflict, match="'night' already exists"):
        created(store)


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    for call in (
        lambda: store.job("x"),
        lambda: store.set_state("x", "running", NOW_S),
        lambda: store.set_owner("x", "me"),
        lambda: store.set_paused("x", True),
        lambda: store.delete("x"),
        lambda: store.add_units("x", [pictures(1)], cursor=None, listed=True),
        lambda: store.claim("x", 1, NOW_S),
        lambda: store.take_back("x"),
        lambda: store.next_pause_s("x", NOW_S),
        lambda: store.retry("x", None, NOW_S),
        lambda: store.answered("x"),
        lambda: list(store.results("x")),
        lambda: list(store.failures("x")),
        lambda: store.find("x", 0),
        lambda: store.add_event("x", "progress", "{}", NOW_S),
        lambda: store.events("x", None),
        lambda: store.delivered("x", 0, 0),
        lambda: store.last_delivered("x", 0),
        lambda: store.jobs(after="x"),
    ):
        with pytest.raises(NotFound, match="job 'x' does not exist"):
            call()


def test_jobs_are_listed_the_newest_first(store: JobStore) -> None:
    for number in range(5):
        created(store, job_id=f"job-{number}")
    assert [job.spec.id for job in store.jobs(limit=2)] == ["job-4", "job-3"]
    assert [job.spec.id for job in store.jobs(after="job-3")] == ["job-2", "job-1", "job-0"]
    store.set_state("job-1", "completed", NOW_S)
    assert [job.spec.id for job in store.jobs(state="completed")] == ["job-1"]
    assert [job.spec.id for job in store.unfinished()] == ["job-0", "job-2", "job-3", "job-4"]


def test_jobs_are_listed_by_tag(store: JobStore) -> None:
    created(store, job_id="a", tags={"site": "dock"})
    created(store, job_id="b", tags={"site": "yard", "a=b": "c"})
    for tag, ids in {"site": ["b", "a"], "site=dock": ["a"], "a=b=c": ["b"], "a=b": ["b"], "a": [], "dock": []}.items():
        assert [job.spec.id for job in store.jobs(tag=tag)] == ids


def test_an_owner_sees_their_jobs_and_those_without_an_owner(store: JobStore) -> None:
    for job_id, owner in (("a", None), ("b", "me"), ("c", "other")):
        store.create(spec(job_id), owner=owner, source="", state="queued", now_s=NOW_S)
    assert [job.spec.id for job in store.jobs(owner="me")] == ["b", "a"]
    assert [job.spec.id for job in store.jobs(owner="me", after="b")] == ["a"]
    assert [job.spec.id for job in store.jobs()] == ["c", "b", "a"]
    assert (store.count_unfinished("me"), store.count_unfinished("other"), store.count_unfinished()) == (1, 1, 3)
    with pytest.raises(NotFound):
        store.jobs(owner="me", after="c")


def test_an_owner_is_set_once(store: JobStore) -> None:
    before = created(store)
    job = store.set_owner("night", "me")
    assert job.owner == "me"
    assert job.version > before.version
    with pytest.raises(Conflict, match="has an owner already"):
        store.set_owner("night", "me")


def test_pausing_is_stored_in_the_specification(store: JobStore) -> None:
    created(store)
    assert store.set_paused("night", True).spec == spec(paused=True)
    assert store.set_paused("night", False).spec == spec()


def test_every_change_of_a_status_changes_its_version(store: JobStore) -> None:
    versions = [created(store, pictures(2)).version]
    unit = claimed(store)
    versions.append(store.job("night").version)
    store.commit(result_of(unit), NOW_S)
    versions.append(store.job("night").version)
    versions.append(store.set_state("night", "completed", NOW_S).version)
    assert versions == sorted(set(versions))


def test_a_change_of_state_is_an_event(store: JobStore) -> None:
    created(store)
    store.set_state("night", "blocked", NOW_S + 1, "no model")
    job = store.set_state("night", "blocked", NOW_S + 2, "no model")
    assert (job.state, job.detail) == ("blocked", "no model")
    events, newest, missed = store.events("night", -1)
    assert (newest, missed) == (1, 0)
    assert [event.type for event in events] == ["state", "state"]
    assert json.loads(events[1].json) == {
        "event_id": 1,
        "type": "state",
        "job_id": "night",
        "at_s": NOW_S + 1,
        "state": "blocked",
        "previous": "running",
        "detail": "no model",
    }


def test_a_state_at_rest_sets_when_the_job_ended_and_expires(store: JobStore) -> None:
    job = created(store, expires_after_s=60)
    assert (job.started_at_s, job.finished_at_s, job.expires_at_s) == (NOW_S, None, None)
    job = store.set_state("night", "completed", NOW_S + 5)
    assert (job.started_at_s, job.finished_at_s, job.expires_at_s) == (NOW_S, NOW_S + 5, NOW_S + 65)
    job = store.retry("night", None, NOW_S + 9)
    assert (job.state, job.started_at_s, job.finished_at_s, job.expires_at_s) == ("running", NOW_S, None, None)


def test_the_newest_512_events_are_kept(store: JobStore) -> None:
    created(store)
    for _ in range(600):
        event = store.add_event("night", "progress", '{"items":1,"event_id":7}', NOW_S)
    assert event.event_id == 600
    assert json.loads(event.json)["event_id"] == 600
    events, newest, missed = store.events("night", 10, limit=2)
    assert ([event.event_id for event in events], newest, missed) == ([89, 90], 600, 78)
    assert store.events("night", None) == ([], 600, 0)
    assert store.events("night", 599)[0] == [event]


def test_what_a_sink_has_sent_never_goes_back(store: JobStore) -> None:
    created(store)
    assert store.last_delivered("night", 0) == -1
    for event_id in (3, 7, 5):
        store.delivered("night", 0, event_id)
    assert (store.last_delivered("night", 0), store.last_delivered("night", 1)) == (7, -1)
