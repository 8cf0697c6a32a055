"""Tests that the cost of a call does not grow with the job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from serve_app.jobs.store import JobStore
from tests.support.job_stores import NOW_S, claimed, connection_of, created, opened, pictures, result_of

STEP = 20  # instructions of SQLite's virtual machine


def steps_of(store: JobStore, call: Callable[[], object]) -> int:
    """Return how many steps a call takes."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    connection_of(store).set_progress_handler(count, STEP)
    call()
    connection_of(store).set_progress_handler(None, 0)
    return taken


def costs(folder: Path, units: int) -> dict[str, int]:
    """Return the steps of each call on a job of which half is done in part, and paused."""
    store = opened(folder)
    created(store, *(pictures(2, 2 * number) for number in range(units)))
    for unit in store.claim("night", units // 2, NOW_S):
        store.commit(result_of(unit, failed=[unit.first], deferred=[unit.first + 1], retry_after_s=60), NOW_S)
    for unit in store.claim("night", units // 4, NOW_S):
        store.commit(result_of(unit), NOW_S)
    first, second = store.claim("night", 2, NOW_S)
    calls: dict[str, Callable[[], object]] = {
        "claim": lambda: store.claim("night", 2, NOW_S),
        "commit": lambda: store.commit(result_of(first), NOW_S),
        "release": lambda: store.release(second, NOW_S, suspect=True),
        "next_pause_s": lambda: store.next_pause_s("night", NOW_S),
        "answered": lambda: store.answered("night", after=units + 5, limit=2),
        "answered, failed": lambda: store.answered("night", after=units - 9, limit=2, state="failed"),
        "find": lambda: store.find("night", units),
        "add_units": lambda: store.add_units("night", [pictures(1)], cursor="", listed=True),
        "job": lambda: store.job("night"),
    }
    cost = {name: steps_of(store, call) for name, call in calls.items()}
    assert len(claimed(store).items) == 2
    store.close()
    return cost


def test_a_call_takes_no_more_steps_because_a_job_is_large(tmp_path: Path) -> None:
    small, large = costs(tmp_path / "small", 40), costs(tmp_path / "large", 1000)
    assert {name: steps - small[name] for name, steps in large.items() if steps > small[name] + 1} == {}
