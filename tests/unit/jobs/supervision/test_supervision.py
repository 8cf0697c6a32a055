"""Tests of the life of a job, with a real store and a real folder, and with fake runners."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.errors import (
    ModelChanged,
    ReplicaDied,
    TooLarge,
    Unavailable,
)
from serve_app.jobs import dispatch
from serve_app.jobs.outputs import OutputUnwritable
from serve_app.jobs.units import Deferred, Unit, UnitResult
from serve_app.schemas.jobs import JobSpec, Retry
from serve_app.types import Principal
from tests.support.fake_runners import (
    ADMIN,
    FakeRunners,
    args_of,
    done_items,
    ended,
    result_of,
    spec_of,
    status_when,
    supervision_of,
)
from tests.support.instruments import Record

pytestmark = pytest.mark.anyio

ANN, BOB = Principal("ann", is_admin=False), Principal("bob", is_admin=False)


async def test_a_job_over_a_folder_completes_with_one_result_for_each_file(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        created = await supervision.create(spec_of(tmp_path, 100), ADMIN)
        assert created.state == "queued"
        status = await ended(supervision)
        assert (status.state, status.items, status.succeeded, status.failed) == ("completed", 100, 100, 0)
        assert (status.waiting, status.in_flight, status.listed) == (0, 0, True)
        assert status.models == {"default@v1": 100}
        assert await done_items(supervision) == list(range(100))


async def test_a_source_that_cannot_be_listed_fails_the_job(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 0), ADMIN)
        status = await ended(supervision)
        assert status.state == "failed"
        assert status.detail.startswith("source_unreadable: ")


async def test_there_are_never_more_units_out_than_places(tmp_path: Path) -> None:
    runners = FakeRunners()
    async with supervision_of(tmp_path, runners) as supervision:
        runners.gate.clear()
        await supervision.create(spec_of(tmp_path, 300), ADMIN)
        await status_when(supervision, lambda status: status.units.out == 2 and status.listed)
        runners.gate.set()
        await ended(supervision)
    assert runners.most_out == 2


async def test_a_unit_whose_runner_died_is_suspect_and_begun_again(tmp_path: Path) -> None:
    deaths = [ReplicaDied("it died")]
    runners = FakeRunners(lambda unit: deaths.pop() if deaths else result_of(unit))
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 40), ADMIN)
        status = await ended(supervision)
        assert (status.state, status.succeeded, status.units.repeated) == ("completed", 40, 1)
        assert await done_items(supervision) == list(range(40))
    assert [unit.number for unit in runners.units if unit.is_suspect] == [runners.units[0].number]


async def test_each_deadly_image_kills_at_most_two_runners_and_no_other_image_is_poison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that is given a suspect unit decodes in quarantine, so there it survives the image."""
    monkeypatch.setattr(dispatch, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(dispatch, "_MAX_PAUSE_S", 0.01)
    deadly, deaths = frozenset({"00000.jpg", "00020.jpg", "00090.jpg"}), 0

    def answer(unit: Unit) -> UnitResult | Exception:
        nonlocal deaths
        if not unit.is_suspect and any(item.name in deadly for _, item in unit.wanted()):
            deaths += 1
            return ReplicaDied("it died")
        return result_of(unit, failing=deadly)

    async with supervision_of(tmp_path, FakeRunners(answer)) as supervision:
        await supervision.create(spec_of(tmp_path, 100), ADMIN)
        status = await ended(supervision)
        assert (status.state, status.succeeded, status.failed) == ("completed", 97, 3)
    assert deaths <= 6


async def test_an_image_that_kills_runners_in_spite_of_the_quarantine_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(dispatch, "_MAX_PAUSE_S", 0.01)

    def answer(unit: Unit) -> UnitResult | Exception:
        if any(item.name == "00006.jpg" for _, item in unit.wanted()):
            return ReplicaDied("it died")
        return result_of(unit)

    async with supervision_of(tmp_path, FakeRunners(answer)) as supervision:
        await supervision.create(spec_of(tmp_path, 40), ADMIN)
        status = await ended(supervision)
        assert (status.state, status.succeeded, status.errors) == ("completed", 39, {"poison": 1})
        page = await supervision.items("night", ADMIN, state="failed", after=None, limit=10)
        assert [item.name for item in page.items] == ["00006.jpg"]


async def test_an_image_that_fails_by_deaths_of_runners_counts_as_any_other_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(dispatch, "_MAX_PAUSE_S", 0.01)
    records: list[Record] = []
    runners = FakeRunners(lambda unit: ReplicaDied("it died"))
    async with supervision_of(tmp_path, runners, records=records) as supervision:
        await supervision.create(spec_of(tmp_path, 1, max_failed={"share": 0.5, "after": 1}), ADMIN)
        status = await ended(supervision)
        assert (status.state, status.errors) == ("failed", {"poison": 1})
        assert status.detail.startswith("too_many_failures: 1 of 1 items failed")
        page = await supervision.events("night", ADMIN, -1, 0)
        assert "progress" in {event.type for event in page.events}
    assert ("job_items_done", 1, {"outcome": "poison"}) in records


async def test_runners_that_cannot_work_block_the_job_until_they_can(tmp_path: Path) -> None:
    refusals = [Unavailable("no runner can be started")] * 3
    runners = FakeRunners(lambda unit: refusals.pop() if refusals else result_of(unit))
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 4), ADMIN)
        blocked = await status_when(supervision, lambda status: status.state == "blocked")
        assert blocked.detail == "unavailable: no runner can be started"
        status = await ended(supervision)
        assert (status.state, status.succeeded, status.failed) == ("completed", 4, 0)
    assert not any(unit.is_suspect for unit in runners.units)


async def test_deferred_items_block_the_job_and_are_done_later(tmp_path: Path) -> None:
    def answer(unit: Unit) -> UnitResult:
        if unit.attempt > 1:
            return result_of(unit)
        items = tuple(number for number, _ in unit.wanted())
        deferred = Deferred(items, "unavailable", "the bucket answers 503", 0.5)
        return UnitResult(unit.job_id, unit.number, unit.attempt, (), deferred=deferred)

    async with supervision_of(tmp_path, FakeRunners(answer)) as supervision:
        await supervision.create(spec_of(tmp_path, 30), ADMIN)
        blocked = await status_when(supervision, lambda status: status.state == "blocked")
        assert blocked.detail == "unavailable: the bucket answers 503"
        status = await ended(supervision)
        assert (status.state, status.succeeded, status.failed) == ("completed", 30, 0)


async def test_images_that_can_never_be_written_fail_the_job_and_not_its_items(tmp_path: Path) -> None:
    problems: list[Exception] = [OutputUnwritable("outputs: s3://dock does not exist")]
    runners = FakeRunners(lambda unit: problems[0] if problems else result_of(unit))
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 100), ADMIN)
        status = await ended(supervision)
        assert (status.state, status.failed) == ("failed", 0)
        assert status.detail == "output_unwritable: outputs: s3://dock does not exist"
        problems.clear()
        await supervision.retry("night", ADMIN, Retry())
        status = await ended(supervision)
        assert (status.state, status.succeeded, status.failed) == ("completed", 100, 0)


async def test_a_cancelled_job_stores_nothing_more_and_keeps_what_it_has(tmp_path: Path) -> None:
    runners = FakeRunners(closing=True)
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 3000), ADMIN)
        await status_when(supervision, lambda status: status.succeeded and status.in_flight)
        before = await supervision.status("night", ADMIN)
        status = await supervision.cancel("night", ADMIN)
        assert (status.state, status.in_flight, status.units.out) == ("cancelled", 0, 0)
        assert runners.cancelled
        runners.gate.set()
        assert before.succeeded <= status.succeeded < 3000
        assert len(await done_items(supervision)) == status.succeeded
        assert await supervision.cancel("night", ADMIN) == status


async def test_a_paused_job_starts_no_new_unit_until_it_is_resumed(tmp_path: Path) -> None:
    runners = FakeRunners()
    async with supervision_of(tmp_path, runners) as supervision:
        runners.gate.clear()
        await supervision.create(spec_of(tmp_path, 300), ADMIN)
        await status_when(supervision, lambda status: status.in_flight and status.listed)
        assert (await supervision.pause("night", ADMIN)).state == "paused"
        runners.gate.set()
        status = await status_when(supervision, lambda status: not status.in_flight)
        assert (status.state, status.succeeded) == ("paused", sum(len(unit.items) for unit in runners.units))
        assert len(runners.units) == 2
        assert status.units.repeated == 0  # no unit is claimed and given back meanwhile
        assert (await supervision.resume("night", ADMIN)).state == "running"
        assert (await ended(supervision)).succeeded == 300


async def test_a_job_that_is_created_paused_waits(tmp_path: Path) -> None:
    runners = FakeRunners()
    async with supervision_of(tmp_path, runners) as supervision:
        assert (await supervision.create(spec_of(tmp_path, 5, paused=True), ADMIN)).state == "paused"
        await supervision.create(spec_of(tmp_path, 5, "other"), ADMIN)
        await ended(supervision, "other")
        assert {unit.job_id for unit in runners.units} == {"other"}
        assert (await supervision.resume("night", ADMIN)).state == "queued"
        assert (await ended(supervision)).state == "completed"


async def test_a_new_supervision_begins_again_what_was_out_and_loses_nothing(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners(closing=True)) as supervision:
        await supervision.create(spec_of(tmp_path, 200), ADMIN)
        await status_when(supervision, lambda status: status.succeeded and status.listed and status.in_flight)
    second = FakeRunners()
    async with supervision_of(tmp_path, second) as supervision:
        status = await ended(supervision)
        assert (status.state, status.items, status.succeeded) == ("completed", 200, 200)
        assert status.units.repeated > 0
        assert await done_items(supervision) == list(range(200))
    assert not any(unit.is_suspect for unit in second.units)


async def test_the_listing_continues_where_the_last_supervision_stopped(tmp_path: Path) -> None:
    runners = FakeRunners()
    runners.gate.clear()
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 5000), ADMIN)
        await status_when(supervision, lambda status: status.items)
    second = FakeRunners()
    async with supervision_of(tmp_path, second) as supervision:
        assert (await ended(supervision)).items == 5000
        names = [
            one.name for one in (await supervision.items("night", ADMIN, state=None, after=None, limit=9999)).items
        ]
        assert names == sorted(set(names))


async def test_only_the_failed_items_are_tried_again(tmp_path: Path) -> None:
    failing = frozenset({"00003.jpg", "00050.jpg"})
    runners = FakeRunners(lambda unit: result_of(unit, failing=failing))
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 60), ADMIN)
        status = await ended(supervision)
        assert (status.state, status.succeeded, status.errors) == ("completed", 58, {"missing": 2})
        runners.units.clear()
        runners.answer = result_of
        assert (await supervision.retry("night", ADMIN, Retry())).state == "running"
        status = await ended(supervision)
        assert (status.succeeded, status.failed, status.errors) == (60, 0, {})
        assert sorted(item.name for unit in runners.units for _, item in unit.wanted()) == sorted(failing)


async def test_a_job_with_too_many_failures_fails(tmp_path: Path) -> None:
    names = frozenset(f"{number:05}.jpg" for number in range(300) if number % 4)
    runners = FakeRunners(lambda unit: result_of(unit, failing=names))
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 300, max_failed={"share": 0.5, "after": 50}), ADMIN)
        status = await ended(supervision)
        assert status.state == "failed"
        assert status.detail.startswith("too_many_failures: ")
        assert 50 <= status.succeeded + status.failed < 300


@pytest.mark.parametrize("is_refused", [True, False], ids=["refused by the runner", "seen in a result"])
async def test_a_pinned_job_fails_when_the_model_changes(tmp_path: Path, is_refused: bool) -> None:
    def answer(unit: Unit) -> UnitResult | Exception:
        if unit.number < 2:
            return result_of(unit)
        return ModelChanged("it was changed") if is_refused else result_of(unit, version="v2")

    runners = FakeRunners(answer)
    runners.max_unit_count = 1
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 100), ADMIN)
        status = await ended(supervision)
        assert status.state == "failed"
        assert status.detail.startswith("model_changed: ")
        assert list(status.models) == ["default@v1"]
    assert runners.versions == [None, "v1", "v1"]


async def test_a_job_without_a_pinned_model_counts_the_results_of_each_version(tmp_path: Path) -> None:
    runners = FakeRunners(lambda unit: result_of(unit, version=f"v{min(unit.number, 1)}"))
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 100, pin_model=False), ADMIN)
        status = await ended(supervision)
        assert status.state == "completed"
        assert status.models.keys() == {"default@v0", "default@v1"}
        assert sum(status.models.values()) == 100
    assert set(runners.versions) == {None}


async def test_a_job_with_more_items_than_allowed_fails(tmp_path: Path) -> None:
    args = args_of(tmp_path, jobs={"max_items": 50})
    async with supervision_of(tmp_path, FakeRunners(), args) as supervision:
        await supervision.create(spec_of(tmp_path, 51), ADMIN)
        status = await ended(supervision)
        assert status.state == "failed"
        assert "jobs.max_items" in status.detail


async def test_a_list_of_urls_is_cut_when_the_job_is_created(tmp_path: Path) -> None:
    args = args_of(tmp_path, outbound={"detect_urls": True}, jobs={"max_items": 40})
    runners = FakeRunners()
    runners.gate.clear()

    def spec(count: int) -> JobSpec:
        urls = [{"url": f"https://example.com/{number}.jpg", "id": f"n{number}"} for number in range(count)]
        return JobSpec.model_validate({"id": "night", "source": {"type": "urls", "urls": urls}})

    async with supervision_of(tmp_path, runners, args) as supervision:
        with pytest.raises(TooLarge, match=r"jobs\.max_items"):
            await supervision.create(spec(41), ADMIN)
        status = await supervision.create(spec(40), ADMIN)
        assert (status.items, status.listed) == (40, True)
        runners.gate.set()
        await ended(supervision)
        page = await supervision.items("night", ADMIN, state=None, after=None, limit=1)
        assert (page.items[0].id, page.next) == ("n0", 0)


async def test_a_job_that_was_cancelled_while_it_was_paused_runs_when_it_is_retried(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 10, paused=True), ADMIN)
        await supervision.cancel("night", ADMIN)
        assert (await supervision.retry("night", ADMIN, Retry())).state == "running"
        status = await ended(supervision)
        assert (status.state, status.succeeded) == ("completed", 10)
