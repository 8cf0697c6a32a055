"""Fake job runners, which run in the test's process and which the test controls, and a supervision with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from serve_app.config import AppArgs, parse_args
from serve_app.jobs.store import JobStore
from serve_app.jobs.supervision import Supervision
from serve_app.jobs.units import Failed, Unit, UnitResult
from serve_app.schemas.detect import ImageSize
from serve_app.schemas.jobs import AT_REST, JobResult, JobSpec, JobStatus
from serve_app.telemetry.metrics import Telemetry
from serve_app.types import Principal
from tests.support.instruments import FakeInstrument, Record

ADMIN = Principal("", is_admin=True)
TIMEOUT_S = 60.0


def result_of(unit: Unit, *, failing: frozenset[str] = frozenset(), version: str = "v1") -> UnitResult:
    """Return the result of a unit in whose images there are no objects. Items with these names fail as ``missing``."""
    done, failed = [], []
    for number, item in unit.wanted():
        if item.name in failing:
            failed.append(Failed(number, item.name, "missing", "it is not there", item.id))
            continue
        result = JobResult(
            job_id=unit.job_id,
            item=number,
            name=item.name,
            id=item.id or None,
            count=0,
            detections=[],
            image=ImageSize(width=8, height=8),
            model="default",
        )
        done.append((number, result.model_dump_json()))
    models = {f"default@{version}": len(done)} if done else {}
    return UnitResult(unit.job_id, unit.number, unit.attempt, tuple(done), tuple(failed), models=models)


class FakeRunners:
    """Runners that work on up to ``max_unit_count`` units at once.

    ``answer`` returns a unit's result, or an error to raise. While ``gate`` is closed, the units are with the runners.
    If ``closing`` is set, the first answer closes the gate, so that a job cannot end before the test looks at it.
    """

    def __init__(self, answer: Callable[[Unit], UnitResult | Exception] = result_of, *, closing: bool = False) -> None:
        self.answer = answer
        self.closing = closing
        self.max_unit_count = 2
        self.gate = asyncio.Event()
        self.gate.set()
        self.units: list[Unit] = []  # all units, in the order of the calls
        self.versions: list[str | None] = []
        self.out = 0
        self.most_out = 0
        self.cancelled = 0

    async def max_units(self) -> int:
        return self.max_unit_count

    async def run(self, unit: Unit, spec: JobSpec, model_version: str | None) -> UnitResult:
        self.units.append(unit)
        self.versions.append(model_version)
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.out -= 1
        if self.closing:
            self.closing = False
            self.gate.clear()
        answer = self.answer(unit)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def picture(self, unit: Unit, spec: JobSpec, item: int, result: str | None) -> bytes:
        return f"{unit.number} {item} {'boxes' if result else 'plain'}".encode()


class StubbornRunners(FakeRunners):
    """Runners that stay with unit 1 until it is cancelled, and then until ``leave`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.leave = asyncio.Event()
        self.is_held = asyncio.Event()

    async def run(self, unit: Unit, spec: JobSpec, model_version: str | None) -> UnitResult:
        if unit.number == 1 and not self.cancelled:
            self.is_held.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                await self.leave.wait()
                raise
        elif not self.cancelled:
            await self.is_held.wait()
        return await super().run(unit, spec, model_version)


def args_of(folder: Path, **sections: Any) -> AppArgs:
    """Return settings with which jobs may read the images in ``folder/in``."""
    streams = {"media_dirs": str(folder / "in"), "output_dir": str(folder), "state_dir": str(folder / "state")}
    return parse_args({"streams": streams} | sections)


def spec_of(folder: Path, count: int, job_id: str = "night", **fields: Any) -> JobSpec:
    """Return the specification of a job over this many files, and create the files."""
    source = folder / "in" / job_id
    source.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (source / f"{number:05}.jpg").touch()
    return JobSpec.model_validate({"id": job_id, "source": {"type": "files", "path": str(source)}} | fields)


@asynccontextmanager
async def supervision_of(
    folder: Path,
    runners: FakeRunners,
    args: AppArgs | None = None,
    records: list[Record] | None = None,
    store: JobStore | None = None,
) -> AsyncIterator[Supervision]:
    """Run a supervision. By default, its store is in ``folder/state``."""
    telemetry = Telemetry(lambda metric: FakeInstrument(metric, records if records is not None else []))
    store = store or JobStore(folder / "state")
    supervision = Supervision(store, runners, args or args_of(folder), folder / "state/jobs", telemetry)
    try:
        yield supervision
        supervision.check()
    finally:
        await supervision.stop()
        await supervision.close()


async def status_when(
    supervision: Supervision, look: Callable[[JobStatus], object], job_id: str = "night", who: Principal = ADMIN
) -> JobStatus:
    """Wait until ``look`` returns a true value for a job's status, and return the status."""
    after = -1
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not look(status := await supervision.status(job_id, who)):
                page = await supervision.events(job_id, who, after, 0.05)
                after = page.last_id if page.last_id is not None else after
                supervision.check()
    except TimeoutError:
        raise AssertionError(f"it did not happen: {status}") from None
    return status


async def ended(supervision: Supervision, job_id: str = "night") -> JobStatus:
    """Wait until a job is at rest, and return its status."""
    return await status_when(supervision, lambda status: status.state in AT_REST, job_id)


async def done_items(supervision: Supervision, job_id: str = "night") -> list[int]:
    """Return the numbers of all items of a job that are done."""
    return [one.item for one in (await supervision.items(job_id, ADMIN, state=None, after=None, limit=100_000)).items]
