"""What the store returns, and how it is kept in rows and bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from serve_app.jobs.units import Clip, Item, NewUnit
from serve_app.schemas.jobs import JobFailure, JobSpec, JobState, UnitCounts

_RECORD_SEPARATOR = "\x1e"  # RFC 7464; JSON text cannot contain it


@dataclass(frozen=True)
class Job:
    """A stored job and its counters. ``items = succeeded + failed + waiting + in_flight`` holds at any time."""

    spec: JobSpec
    owner: str | None
    source: str  # the source's name, without credentials
    state: JobState
    detail: str = ""
    listed: bool = False
    cursor: str | None = None  # where the listing continues
    items: int = 0
    succeeded: int = 0
    failed: int = 0
    in_flight: int = 0  # items without a result in the units that are out
    errors: dict[str, int] = field(default_factory=dict)
    detections: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    units: UnitCounts = field(default_factory=UnitCounts)
    created_at_s: float = 0.0
    started_at_s: float | None = None
    finished_at_s: float | None = None
    expires_at_s: float | None = None
    version: int = 0  # grows with each change; ``ActiveJob.update`` ignores an older one

    @property
    def waiting(self) -> int:
        """The number of items that have no result and that no runner works on."""
        return self.items - self.succeeded - self.failed - self.in_flight


@dataclass(frozen=True)
class TaskRow:
    """A task of a Celery queue. ``job_id`` is None if its job was deleted."""

    task_id: str
    kind: str
    job_id: str | None


@dataclass(frozen=True)
class Answered:
    """An item that is done: its number and its JSON, or its failure."""

    item: int
    json: str | None
    failure: JobFailure | None = None


def job_of(row: Any) -> Job:
    """Return the job of a row of the table ``jobs`` with the column ``json`` of ``specs``."""
    return Job(
        spec=_spec(row["json"]),
        owner=row["owner"],
        source=row["source"],
        state=row["state"],
        detail=row["detail"],
        listed=bool(row["listed"]),
        cursor=json.loads(row["cursor"]),
        items=row["items"],
        succeeded=row["succeeded"],
        failed=row["failed"],
        in_flight=row["in_flight"],
        errors=json.loads(row["errors"]),
        detections=json.loads(row["detections"]),
        models=json.loads(row["models"]),
        units=UnitCounts(
            open=row["open_units"], out=row["out_units"], done=row["done_units"], repeated=row["repeated"]
        ),
        created_at_s=row["created_at_s"],
        started_at_s=row["started_at_s"],
        finished_at_s=row["finished_at_s"],
        expires_at_s=row["expires_at_s"],
        version=row["version"],
    )


@lru_cache(maxsize=64)
def _spec(text: str) -> JobSpec:
    return JobSpec.model_validate_json(text)  # takes milliseconds if it has 10,000 URLs


def failure_of(job_id: str, row: Any) -> JobFailure:
    """Return the failure of a row of the table ``failures``."""
    return JobFailure(
        job_id=job_id,
        item=row["item"],
        name=row["name"],
        id=row["client_id"] or None,
        code=row["code"],
        detail=row["detail"],
    )


def storable(text: str) -> str:
    r"""Return a text as SQLite and JSON can store it. A byte of a file's name that is not UTF-8 becomes ``\udc80``."""
    return text.encode("utf-8", "backslashreplace").decode()


def pack_content(unit: NewUnit) -> bytes:
    """Return the items or the clip of a unit as bytes."""
    value: Any
    if (clip := unit.clip) is not None:
        fields = (clip.name, clip.start_s, clip.end_s, clip.expected, clip.first_frame, clip.version)
        value = {"clip": fields}
    else:
        value = {"items": [(i.name, i.size_bytes, i.version, i.offset, i.id) for i in unit.items]}
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 1)


def unpack_content(data: bytes) -> tuple[tuple[Item, ...], Clip | None]:
    """Return the items or the clip of a unit from its bytes."""
    value = json.loads(zlib.decompress(data))
    if "clip" in value:
        return (), Clip(*value["clip"])  # clips of earlier versions end with ``expected``
    return tuple(Item(*item) for item in value["items"]), None


def pack_results(results: Iterable[tuple[int, str]]) -> bytes:
    """Return item numbers and the JSON of their results as bytes."""
    return zlib.compress(_RECORD_SEPARATOR.join(f"{item} {text}" for item, text in results).encode(), 1)


def unpack_results(data: bytes) -> list[tuple[int, str]]:
    """Return item numbers and the JSON of their results from their bytes."""
    pairs = (record.split(" ", 1) for record in zlib.decompress(data).decode().split(_RECORD_SEPARATOR))
    return [(int(item), text) for item, text in pairs]
