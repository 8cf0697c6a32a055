"""Tests of the store's file: its lock, older and damaged files, full disks and power cuts."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise, takewhile
from pathlib import Path

import pytest

from serve_app.errors import NoSpace, StartError, Unavailable
from serve_app.jobs.store import JobStore
from serve_app.jobs.store.schema import VERSION
from serve_app.schemas.jobs import UnitCounts
from tests.support.file_sizes import files_of_at_most
from tests.support.job_stores import (
    NOW_S,
    audit,
    audit_folder,
    claimed,
    connection_of,
    created,
    dump,
    opened,
    pictures,
    result_of,
    rows_of,
    spec,
)

VERSION_1 = Path(__file__).with_name("version_1.sql")


@contextmanager
def holder(folder: Path) -> Iterator[int]:
    """Hold the store in another process, and yield the process's id. Kill the process at the end of the block."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        store = opened(folder)
        created(store, pictures(2))
        claimed(store)
        os.write(writer, b".")
        signal.pause()
    try:
        assert os.read(reader, 1) == b"."
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def steps_of_a_job(store: JobStore, before_each_statement: Callable[[str], None]) -> Iterator[None]:
    """Work on a job, one transaction after the other."""

    def steps() -> Iterator[object]:
        yield store.create(spec(), owner=None, source="dock", state="queued", now_s=NOW_S)
        yield store.set_state("night", "running", NOW_S)
        for page in range(3):
            units = [pictures(4, 12 * page + 4 * number) for number in range(3)]
            yield store.add_units("night", units, cursor=str(page), listed=page == 2)
        for number in range(9):
            (unit,) = units_out = store.claim("night", 1, NOW_S)
            yield units_out
            yield store.commit(result_of(unit, failed=[unit.first] if number % 3 == 0 else ()), NOW_S)
        yield store.retry("night", None, NOW_S)
        yield store.set_state("night", "completed", NOW_S)

    work = steps()
    while True:
        connection_of(store).set_trace_callback(before_each_statement)
        step = next(work, None)
        connection_of(store).set_trace_callback(None)
        if step is None:
            return
        yield


def write_version_1(folder: Path) -> None:
    connection = sqlite3.connect(folder / "jobs.sqlite")
    connection.executescript(VERSION_1.read_text())
    connection.close()


def test_only_its_user_may_read_the_store(tmp_path: Path) -> None:
    store = opened(tmp_path / "state")
    created(store)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert files == {"jobs.sqlite": 0o600, "jobs.sqlite-wal": 0o600, "jobs.lock": 0o600}
    store.close()


def test_each_transaction_is_written_to_the_disk_before_its_call_returns(tmp_path: Path) -> None:
    store = opened(tmp_path)
    modes = [connection_of(store).execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert modes == ["wal", 2]  # 2 is FULL: the log is synced for each commit
    store.close()


def test_the_space_of_a_deleted_job_is_used_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    sizes = [store.size_bytes()]
    for _ in range(2):
        created(store, *(pictures(32, 32 * number) for number in range(200)))
        sizes.append(store.size_bytes())
        store.delete("night")
        sizes.append(store.size_bytes())
    assert sizes[1] > sizes[0] + 50_000
    assert sizes[1:3] == sizes[3:]
    assert sizes[2] < sizes[0] + 20_000
    store.close()
    assert (tmp_path / "jobs.sqlite").stat().st_size < sizes[1] + 20_000


def test_one_store_at_a_time_has_the_file_open(tmp_path: Path) -> None:
    first, second = JobStore(tmp_path), JobStore(tmp_path)
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    with pytest.raises(Unavailable):
        second.jobs()
    first.close()
    assert second.acquire()
    second.close()


def test_another_process_gets_the_store_only_when_the_holder_has_ended(tmp_path: Path) -> None:
    with holder(tmp_path) as pid:
        assert not JobStore(tmp_path).acquire()
        os.kill(pid, signal.SIGSTOP)  # a frozen process still holds the store, so it may continue to write later
        assert not JobStore(tmp_path).acquire()
        os.kill(pid, signal.SIGCONT)
        assert not JobStore(tmp_path).acquire()
    store = opened(tmp_path)
    assert store.job("night").units == UnitCounts(open=1, repeated=1)
    assert store.job("night").in_flight == 0


def test_the_file_cannot_be_opened_twice_even_without_the_lock_file(tmp_path: Path) -> None:
    with holder(tmp_path):
        (tmp_path / "jobs.lock").unlink()
        assert not JobStore(tmp_path).acquire()
    assert JobStore(tmp_path).acquire()


def test_a_file_of_version_1_is_migrated(tmp_path: Path) -> None:
    write_version_1(tmp_path)
    store = opened(tmp_path)
    job = store.job("night")
    assert (job.spec, job.owner, job.state) == (spec(tags={"site": "dock"}), None, "running")
    assert (job.items, job.succeeded, job.failed, job.waiting, job.in_flight) == (6, 3, 1, 2, 0)
    assert job.units == UnitCounts(open=1, done=1, repeated=1)
    assert store.set_owner("night", "me").owner == "me"
    unit = claimed(store)
    assert (unit.number, unit.attempt, unit.is_suspect) == (1, 2, True)
    assert store.commit(result_of(unit), NOW_S)
    assert [json.loads(text)["item"] for text in store.results("night")] == [0, 1, 3, 4, 5]
    assert connection_of(store).execute("PRAGMA user_version").fetchone()[0] == VERSION
    store.close()
    audit_folder(tmp_path)
    new = opened(tmp_path / "new")
    columns = "SELECT name FROM pragma_table_info(?) ORDER BY name"
    for table in ("jobs", "units"):
        migrated = sqlite3.connect(tmp_path / "jobs.sqlite").execute(columns, (table,)).fetchall()
        assert migrated == [tuple(row) for row in connection_of(new).execute(columns, (table,))]
    new.close()


def test_a_file_of_a_newer_release_is_refused_and_kept(tmp_path: Path) -> None:
    store = opened(tmp_path)
    created(store, pictures(3))
    store.close()
    connection = sqlite3.connect(tmp_path / "jobs.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = dump(tmp_path)
    for _ in range(2):
        with pytest.raises(
            StartError, match=rf"has version 99, and .* up to {VERSION}; install the release that wrote it"
        ):
            JobStore(tmp_path).acquire()
    assert dump(tmp_path) == before


def overwrite(path: Path) -> None:
    path.write_bytes(b"not a database at all\n" * 1000)


def cut(path: Path) -> None:
    os.truncate(path, 3 * 4096)


def garble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100] + random.Random(1).randbytes(path.stat().st_size - 100))


@pytest.mark.parametrize("damage", [overwrite, cut, garble])
def test_a_damaged_file_is_refused_and_kept(damage: Callable[[Path], None], tmp_path: Path) -> None:
    store = opened(tmp_path)
    created(store, *(pictures(32, 32 * number) for number in range(50)))
    claimed(store)
    store.close()
    path = tmp_path / "jobs.sqlite"
    damage(path)
    damaged = path.read_bytes()
    for _ in range(2):  # the second attempt shows that the first one has unlocked the file
        with pytest.raises(StartError, match=r"jobs\.sqlite is damaged; restore it from a backup, or move it"):
            JobStore(tmp_path).acquire()
    assert path.read_bytes() == damaged
    path.rename(tmp_path / "damaged")
    assert JobStore(tmp_path).acquire()


def test_damage_that_is_found_later_is_an_error_of_the_call(tmp_path: Path) -> None:
    store = opened(tmp_path)
    created(store, *(pictures(32, 32 * number) for number in range(200)))
    page = connection_of(store).execute("SELECT rootpage FROM sqlite_schema WHERE name = 'contents'").fetchone()[0]
    store.close()
    with (tmp_path / "jobs.sqlite").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))
    store = opened(tmp_path)
    with pytest.raises(Unavailable, match="is damaged; restore it"):
        store.claim("night", 1, NOW_S)
    assert store.job("night").items == 6400
    store.close()


def test_a_full_disk_is_no_space_and_the_job_continues_when_there_is_space(tmp_path: Path) -> None:
    store = opened(tmp_path)
    created(store, *(pictures(32, 32 * number) for number in range(20)))
    unit = claimed(store)
    before = rows_of(connection_of(store))
    pages = connection_of(store).execute("PRAGMA page_count").fetchone()[0]
    connection_of(store).execute(f"PRAGMA max_page_count = {pages}")
    long = [pictures(32, 10_000 + 32 * number) for number in range(100)]
    with pytest.raises(NoSpace, match="is full; free some space"):
        store.add_units("night", long, cursor="z", listed=True)
    with pytest.raises(NoSpace):
        store.create(spec("b"), owner=None, source="", state="queued", now_s=NOW_S, units=long)
    assert rows_of(connection_of(store)) == before
    connection_of(store).execute("PRAGMA max_page_count = 100000")
    assert store.commit(result_of(unit), NOW_S)
    store.add_units("night", long, cursor="z", listed=True)
    audit(connection_of(store))
    store.close()
    audit_folder(tmp_path)


def test_a_transaction_that_could_not_be_rolled_back_is_rolled_back_by_the_next_one(tmp_path: Path) -> None:
    store = opened(tmp_path)
    created(store)
    connection_of(store).execute("BEGIN")
    connection_of(store).execute("UPDATE jobs SET items = 7")
    assert store.set_state("night", "completed", NOW_S).items == 0
    store.close()


def test_a_write_that_is_cut_short_tears_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    created(store, *(pictures(32, 32 * number) for number in range(20)))
    wal = tmp_path / "jobs.sqlite-wal"
    for extra in (0, 1, 24, 4096, 5000, 30_000):
        unit = claimed(store)
        before = rows_of(connection_of(store))
        full = files_of_at_most(wal.stat().st_size + extra)
        with full, pytest.raises(Unavailable, match="cannot be read or written"):
            store.add_units("night", [pictures(32, 640)] * 200, cursor="z", listed=True)
        assert rows_of(connection_of(store)) == before
        assert store.commit(result_of(unit), NOW_S)
    store.close()
    audit_folder(tmp_path)
    assert opened(tmp_path).job("night").units == UnitCounts(open=14, done=6)


def test_a_power_cut_at_any_time_leaves_a_file_that_opens(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = opened(folder)
    connection = connection_of(store)
    connection.execute("PRAGMA wal_autocheckpoint = 20")  # so that pages also move to the main file
    states = [rows_of(connection)]
    copies: dict[tuple[bytes, bytes], int] = {}  # the files as they were, and how many steps had returned

    def copy(statement: str) -> None:
        files = (folder / "jobs.sqlite").read_bytes(), (folder / "jobs.sqlite-wal").read_bytes()
        copies[files] = len(states) - 1

    for _ in steps_of_a_job(store, copy):
        states.append(rows_of(connection))
    store.close()
    chance = random.Random(22)
    cases = [(*files, known) for files, known in copies.items()]
    for (main, synced, known), (_, written, _) in pairwise(list(cases)):
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(synced, written, strict=False)))
        changed = range(same, len(written))
        for at in chance.sample(changed, min(4, len(changed))):  # a commit wrote these bytes, perhaps only some of them
            for rest in synced[at:], chance.randbytes(len(written) - at):
                cases.append((main, written[:at] + rest, known))
    for number, (main, wal, known) in enumerate(cases):
        copied = tmp_path / str(number)
        copied.mkdir()
        (copied / "jobs.sqlite").write_bytes(main)
        (copied / "jobs.sqlite-wal").write_bytes(wal)
        audit_folder(copied)
        assert states.index(dump(copied)) >= known
    assert len(cases) > 2 * len(copies)
