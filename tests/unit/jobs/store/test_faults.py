"""Tests that a store whose process ends, or whose disk fails, between any two statements has lost and doubled nothing.

Each test tries every statement of an operation. Afterwards the file has the state from before the operation or the
state from after it, and never one in between.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import Unavailable
from serve_app.jobs.store import JobStore
from serve_app.jobs.units import Unit
from tests.support.job_stores import (
    NOW_S,
    audit,
    audit_folder,
    claimed,
    clip,
    connection_of,
    created,
    dump,
    opened,
    pictures,
    result_of,
    rows_of,
    spec,
)

Operation = Callable[[JobStore], object]
YEAR_S = 366 * 86_400


OPERATIONS: dict[str, Operation] = {
    "create": lambda store: store.create(
        spec("new", tags={"site": "dock"}), owner="me", source="x", state="queued", now_s=NOW_S, units=[pictures(3)]
    ),
    "add_units": lambda store: store.add_units("night", [pictures(3), clip(), pictures(2)], cursor="z", listed=True),
    "claim": lambda store: store.claim("night", 2, NOW_S + 100),
    "commit": lambda store: store.commit(result_of(claimed_before(store, 12), failed=[12], deferred=[13]), NOW_S),
    "commit of an image alone": lambda store: store.commit(result_of(replace(claimed_before(store), todo=(8,))), NOW_S),
    "release": lambda store: store.release(claimed_before(store), NOW_S, suspect=False, pause_s=9),
    "fail by deaths": lambda store: store.release(claimed_before(store), NOW_S, suspect=True),
    "set_state": lambda store: store.set_state("night", "cancelled", NOW_S),
    "retry": lambda store: store.retry("night", None, NOW_S),
    "expire": lambda store: store.expire(NOW_S + YEAR_S),
    "delete": lambda store: store.delete("over"),
    # The operations above write several tables, and are also tried with killed processes.
    "set_owner": lambda store: store.set_owner("night", "me"),
    "set_paused": lambda store: store.set_paused("night", True),
    "add_event": lambda store: store.add_event("night", "progress", "{}", NOW_S),
    "delivered": lambda store: store.delivered("night", 0, 5),
}
FEW = {"create", "claim", "commit", "delete"}  # tried with killed processes even without --chaos


def claimed_before(store: JobStore, item: int = 8) -> Unit:
    """Return the unit with this item. ``prepare`` has taken out two units: three runners died during the first."""
    unit, _ = store.find("night", item)
    return unit


def prepare(folder: Path) -> JobStore:
    """Open a store in which each operation has something to do."""
    store = opened(folder)
    created(store, pictures(4), job_id="over", tags={"site": "dock"})
    store.commit(result_of(claimed(store, "over"), failed=[3]), NOW_S)
    store.delivered("over", 0, 0)
    store.set_state("over", "completed", NOW_S)
    created(store, *(pictures(4, 4 * number) for number in range(5)))
    store.commit(result_of(claimed(store), failed=[1, 2]), NOW_S)
    store.commit(result_of(claimed(store), deferred=[5], failed=[4], retry_after_s=50), NOW_S)
    for _ in range(3):
        store.release(claimed(store), NOW_S, suspect=True)
    assert len(store.claim("night", 2, NOW_S)) == 2
    return store


class Interrupted:
    """Calls a function before the n-th statement after ``start``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
        self._left: int | None = None
        outer = self

        class Connection(sqlite3.Connection):
            def execute(self, *args: Any) -> sqlite3.Cursor:
                outer._step()
                return super().execute(*args)

            def executemany(self, sql: str, rows: Any) -> sqlite3.Cursor:
                for row in rows:  # each row is a statement
                    outer._step()
                    super().execute(sql, row)
                return self.cursor()

        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Connection, **options))
        self._act = act

    def _step(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self._left = None
                self._act()

    def start(self, at: int) -> None:
        self._left = at

    def stop(self) -> bool:
        """Return whether the function was called."""
        was_called, self._left = self._left is None, None
        return was_called


def in_child(act: Callable[[], object]) -> int:
    """Run a function in a process that ends at once afterwards, without closing anything. Return its exit status."""
    if (child := os.fork()) == 0:
        try:
            act()
            os._exit(0)
        except BaseException as exc:
            os.write(2, repr(exc).encode())
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def audited(folder: Path) -> dict[str, Any]:
    """Audit the file of a store whose process has ended, and return its rows."""
    audit_folder(folder)
    return dump(folder)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FEW else pytest.mark.only_with_chaos) for name in list(OPERATIONS)[:11]],
)
def test_a_process_that_ends_between_two_statements_tears_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole, killed = tmp_path / "store", tmp_path / "whole", 17
    assert in_child(lambda: prepare(folder)) == 0
    shutil.copytree(folder, whole)
    fault = Interrupted(monkeypatch, lambda: os._exit(killed))
    monkeypatch.setattr("serve_app.jobs.store.units.take_back_all", lambda db: None)  # so that a child can commit

    def work(folder: Path, at: int) -> int:
        def act() -> None:
            store = opened(folder)
            fault.start(at)
            OPERATIONS[name](store)

        return in_child(act)

    assert work(whole, 1000) == 0
    before, after = audited(folder), audited(whole)
    assert before != after
    at = 0
    while status := work(folder, at):
        assert status == killed
        assert audited(folder) == before
        at += 1
    assert audited(folder) == after
    assert at >= 4


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_fails_at_any_statement_can_be_repeated(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    fault = Interrupted(monkeypatch, fail)
    store = prepare(tmp_path)
    before = rows_of(connection_of(store))
    for at in count():
        fault.start(at)
        try:
            OPERATIONS[name](store)
        except Unavailable:
            assert fault.stop()
            assert rows_of(connection_of(store)) == before
        else:
            assert not fault.stop()
            break
    assert rows_of(connection_of(store)) != before
    audit(connection_of(store))
    assert at >= 4
    store.close()


def test_a_store_can_be_opened_whatever_statement_of_its_opening_was_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_child(lambda: prepare(tmp_path)) == 0
    killed = 17
    fault = Interrupted(monkeypatch, lambda: os._exit(killed))
    at = 0

    def work() -> None:
        fault.start(at)
        opened(tmp_path)

    while status := in_child(work):
        assert status == killed
        audit_folder(tmp_path)
        at += 1
    assert at >= 8
    store = opened(tmp_path)
    assert (store.job("night").units.out, store.job("night").in_flight) == (0, 0)
    store.close()
    audit_folder(tmp_path)
