"""The results of a job as the formats read them, and the description of a written file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import from_json

from serve_app.errors import ServeAppError
from serve_app.schemas.jobs import BoxRow, JobFailure


class OutputUnwritable(ServeAppError):
    """A job's output can never be written, for example because the bucket does not exist."""

    status_code, code = 422, "output_unwritable"


class Results(Protocol):
    """The results of one job, as the store has them."""

    def results(self) -> Iterable[str]:
        """Yield the JSON of each ``JobResult``, by the item's number."""

    def failures(self) -> Iterable[JobFailure]:
        """Yield each failed item, by the item's number."""


@dataclass(frozen=True)
class OutputFile:
    """A written file: its name below the output's place, its size and its SHA-256."""

    name: str
    size_bytes: int
    sha256: str


def parsed(results: Results) -> Iterator[dict[str, Any]]:
    """Yield each result as a dictionary with the fields of ``JobResult``."""
    return map(from_json, results.results())  # twice as fast as Python's own parser


def box_rows(results: Results) -> Iterator[BoxRow]:
    """Yield a row for each detected object. An image without objects has no row."""
    for result in parsed(results):
        yield from BoxRow.of(result)
