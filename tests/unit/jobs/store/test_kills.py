"""Tests that a process which is killed at random times has lost and doubled nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from itertools import count
from pathlib import Path

import pytest

from serve_app.jobs.store import JobStore
from serve_app.jobs.units import Deferred, Failed, NewUnit, Unit, UnitResult
from tests.support.job_stores import NOW_S, audit_folder, opened, pictures, result_json, spec

UNIT, PAGE = 32, 16


def answer(unit: Unit) -> UnitResult:
    """Return the result of a unit, which depends on its items alone. Some fail, and some are deferred at first."""
    wanted = [number for number, _ in unit.wanted()]
    deferred = tuple(number for number in wanted if number % 89 == 0 and unit.todo is None)
    failed = tuple(Failed(number, f"{number}.jpg", "undecodable", "") for number in wanted if number % 97 == 0)
    failed = tuple(failure for failure in failed if failure.item not in deferred)
    done = [number for number in wanted if number not in deferred and number % 97]
    return UnitResult(
        unit.job_id,
        unit.number,
        unit.attempt,
        tuple((number, result_json("night", number)) for number in done),
        failed,
        Deferred(deferred, "unavailable", "", 0.001) if deferred else None,
        {"person": 2 * len(done)},
        {"default@1": len(done)},
    )


def work(folder: Path, items: int, acknowledged: int) -> None:
    """List and do a whole job. Write the number of each unit to a pipe when its result is stored."""
    store = opened(folder)
    if not store.jobs():
        store.create(spec(), owner=None, source="dock", state="running", now_s=NOW_S)
    chance = random.Random()
    job = store.job("night")
    while job.state != "completed":
        if not job.listed:
            first = int(job.cursor or 0)
            ends = [min(items, first + UNIT * (number + 1)) for number in range(PAGE)]
            units = [unit_between(start, end) for start, end in zip([first, *ends], ends, strict=False) if start < end]
            store.add_units("night", units, cursor=str(ends[-1]), listed=ends[-1] == items)
        for unit in store.claim("night", chance.randrange(1, 9), time.time()):
            if chance.random() < 0.02:
                store.release(unit, time.time(), suspect=False)
            elif store.commit(result := answer(unit), time.time()) and result.deferred is None:
                os.write(acknowledged, unit.number.to_bytes(4))
        job = store.job("night")
        if job.listed and job.units.open == 0:
            job = store.set_state("night", "completed", time.time())


def unit_between(start: int, end: int) -> NewUnit:
    return pictures(end - start, start)


def kill_at_random(folder: Path, items: int, longest_s: float, kills: int, kills_per_audit: int) -> None:
    """Do a job in processes of which this many are killed, and check what it has then."""
    chance, done = random.Random(), set[int]()
    opened(folder).close()
    for number in count():
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            try:
                work(folder, items, writer)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writer)
        if number < kills:
            time.sleep(chance.uniform(0, longest_s))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        with open(reader, "rb") as pipe:
            data = pipe.read()
        done |= {int.from_bytes(data[at : at + 4]) for at in range(0, len(data), 4)}
        assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
        if status == 0:
            break
        if number % kills_per_audit == 0:
            audit_folder(folder)
            store = opened(folder)
            assert all(store.find("night", unit * UNIT)[0].todo == () for unit in done)
            store.close()
    audit_folder(folder)
    store = JobStore(folder)
    assert store.acquire()
    job = store.job("night")
    failed = [number for number in range(items) if number % 97 == 0]
    assert (job.state, job.items, job.succeeded, job.failed) == ("completed", items, items - len(failed), len(failed))
    assert list(store.results("night")) == [result_json("night", number) for number in range(items) if number % 97]
    assert [failure.item for failure in store.failures("night")] == failed
    assert done <= set(range(job.units.done))
    store.close()


def test_a_job_whose_process_is_killed_again_and_again_is_done_exactly_once(tmp_path: Path) -> None:
    kill_at_random(tmp_path, items=6_000, longest_s=0.15, kills=15, kills_per_audit=4)


@pytest.mark.only_with_chaos
def test_a_large_job_survives_hundreds_of_kills(tmp_path: Path) -> None:
    kill_at_random(tmp_path, items=500_000, longest_s=0.8, kills=400, kills_per_audit=40)
