"""Tests that after any sequence of calls, the counters and the items are those of a simple model."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.jobs.units import Unit
from tests.support.job_stores import NOW_S, audit, clip, connection_of, numbers, opened, pictures, result_of, spec

CODES = ("undecodable", "missing")


class Jobs(RuleBasedStateMachine):
    """One job, whose items' answers are kept in dictionaries beside the store."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = opened(self.folder)
        self.now_s = NOW_S
        self.units: dict[int, dict[int, str | None]] = {}  # by unit: each item's answer, as "succeeded" or its code
        self.out: dict[int, Unit] = {}
        self.late: list[Unit] = []
        self.state = "running"

    @initialize()
    def create(self) -> None:
        self.store.create(spec(), owner=None, source="", state="running", now_s=self.now_s)

    @property
    def is_stopped(self) -> bool:
        return self.state not in ("running", "paused")

    @rule(sizes=st.lists(st.integers(1, 5), max_size=3))
    def add_images(self, sizes: list[int]) -> None:
        self.store.add_units("night", [pictures(size) for size in sizes], cursor="c", listed=False)
        if not self.is_stopped:
            for size in sizes:
                self.units[len(self.units)] = dict.fromkeys(range(size))

    @rule(expected=st.integers(0, 5))
    def add_clip(self, expected: int) -> None:
        self.store.add_units("night", [clip(expected)], cursor="c", listed=False)
        if not self.is_stopped:
            self.units[len(self.units)] = dict.fromkeys(range(expected))

    @rule(limit=st.integers(1, 3), wait_s=st.sampled_from((0, 5)))
    def claim(self, limit: int, wait_s: float) -> None:
        self.now_s += wait_s
        for unit in self.store.claim("night", limit, self.now_s):
            assert unit.number not in self.out
            left = [item for item, answer in self.units[unit.number].items() if answer is None]
            if unit.clip is None:
                assert [number - unit.first for number in numbers(unit)] == left[: 1 if self.is_alone(unit) else None]
            elif unit.todo is not None:
                assert [number - unit.first for number in unit.todo] == left
            self.out[unit.number] = unit

    def is_alone(self, unit: Unit) -> bool:
        """Return whether the images of a unit are claimed one at a time, because runners died during it."""
        row = connection_of(self.store).execute("SELECT deaths FROM units WHERE number = ?", (unit.number,)).fetchone()
        return int(row[0]) >= 2

    @precondition(lambda self: self.out)
    @rule(data=st.data(), frames=st.integers(0, 6), code=st.sampled_from(CODES))
    def commit(self, data: st.DataObject, frames: int, code: str) -> None:
        unit = self.out.pop(data.draw(st.sampled_from(sorted(self.out))))
        wanted = numbers(unit, frames)
        answers = data.draw(st.lists(st.sampled_from("sssfd"), min_size=len(wanted), max_size=len(wanted)))
        failed, deferred = ([n for n, kind in zip(wanted, answers, strict=True) if kind == k] for k in "fd")
        result = result_of(unit, failed=failed, deferred=deferred, code=code, frames=frames)
        is_stored = self.store.commit(result, self.now_s)
        assert is_stored == (not self.is_stopped)
        if is_stored:
            answered: dict[int, str | None] = {number - unit.first: "succeeded" for number in wanted}
            answered |= {number - unit.first: code for number in failed}
            answered |= {number - unit.first: None for number in deferred}
            known: dict[int, str | None] = {
                item: answer for item, answer in self.units[unit.number].items() if answer is not None
            }
            kept = known if unit.clip else self.units[unit.number]  # a clip has only the frames that were found
            self.units[unit.number] = kept | answered if unit.clip is None else answered | kept
            self.late.append(unit)
        elif self.state == "cancelling":
            self.out[unit.number] = unit

    @precondition(lambda self: self.out)
    @rule(data=st.data(), suspect=st.booleans(), pause_s=st.sampled_from((0.0, 5.0)), is_last=st.booleans())
    def release(self, data: st.DataObject, suspect: bool, pause_s: float, is_last: bool) -> None:
        unit = self.out.pop(data.draw(st.sampled_from(sorted(self.out))))
        if is_last:  # as if three runners had died during the unit; sequences of three deaths would be rare
            connection_of(self.store).execute("UPDATE units SET deaths = 3 WHERE number = ?", (unit.number,))
        before = self.store.job("night")
        self.store.release(unit, self.now_s, suspect=suspect, pause_s=pause_s)
        self.late.append(unit)
        if self.store.job("night").failed > before.failed:  # the fourth runner died
            answers = self.units[unit.number]
            if unit.clip is not None and unit.todo is None:
                answers.clear()
                answers[0] = None
            left = [item for item, answer in answers.items() if answer is None]
            answers.update(dict.fromkeys(left if unit.clip else left[:1], "poison"))

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def commit_late(self, data: st.DataObject) -> None:
        unit = data.draw(st.sampled_from(self.late))
        assert not self.store.commit(result_of(unit), self.now_s)
        self.store.release(unit, self.now_s, suspect=True)

    @rule(codes=st.sampled_from((None, CODES[:1], (*CODES, "poison"))))
    def retry(self, codes: tuple[str, ...] | None) -> None:
        if self.state not in ("running", "completed", "cancelled"):
            return
        self.store.retry("night", codes, self.now_s)
        self.state = "running"
        for number, answers in self.units.items():
            if number in self.out:
                continue
            chosen = [
                item
                for item, code in answers.items()
                if code not in (None, "succeeded") and (not codes or code in codes)
            ]
            unit = self.store.find("night", unit_first(self.store, number))[0] if chosen else None
            if unit and unit.clip and unit.todo is None:
                self.units[number] = dict.fromkeys(range(unit.clip.expected))
            else:
                answers.update(dict.fromkeys(chosen))

    @rule(state=st.sampled_from(("running", "paused", "cancelling", "cancelled", "completed")))
    def set_state(self, state: Any) -> None:
        self.store.set_state("night", state, self.now_s)
        self.state = state
        if state in ("cancelled", "completed"):
            self.late += self.out.values()
            self.out.clear()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = opened(self.folder)
        self.late += self.out.values()
        self.out.clear()

    @invariant()
    def the_counters_are_those_of_the_model(self) -> None:
        job = self.store.job("night")
        answers = [answer for unit in self.units.values() for answer in unit.values()]
        failed = [answer for answer in answers if answer not in (None, "succeeded")]
        assert job.state == self.state
        assert (job.items, job.succeeded, job.failed) == (len(answers), answers.count("succeeded"), len(failed))
        assert job.errors == {code: failed.count(code) for code in failed}
        in_flight = [answer for number in self.out for answer in self.units[number].values() if answer is None]
        assert (job.in_flight, job.units.out) == (len(in_flight), len(self.out))
        assert job.items == job.succeeded + job.failed + job.waiting + job.in_flight
        assert min(job.waiting, job.units.open, job.units.done) >= 0

    @invariant()
    def the_items_are_those_of_the_model(self) -> None:
        answered = [
            (number, item, answer)
            for number, unit in self.units.items()
            for item, answer in sorted(unit.items())
            if answer is not None
        ]
        stored = self.store.answered("night", limit=10_000)
        assert [a.failure.code if a.failure else "succeeded" for a in stored] == [answer for *_, answer in answered]
        firsts = {number: unit_first(self.store, number) for number in self.units}
        assert [a.item for a in stored] == [firsts[number] + item for number, item, _ in answered]

    @invariant()
    def the_counters_are_those_of_the_tables(self) -> None:
        audit(connection_of(self.store))

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


def unit_first(store: Any, number: int) -> int:
    """Return the number of the first item of a unit."""
    return int(connection_of(store).execute("SELECT first FROM units WHERE number = ?", (number,)).fetchone()[0])


TestSequences = Jobs.TestCase
TestSequences.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
