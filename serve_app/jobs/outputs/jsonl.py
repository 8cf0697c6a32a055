"""JSON Lines: one result or one failure per line."""

from __future__ import annotations

from typing import BinaryIO

from serve_app.jobs.outputs.results import Results

NAME = "results.jsonl"
FAILED_NAME = "failed.jsonl"


def write(results: Results, file: BinaryIO) -> None:
    """Write each ``JobResult`` as a line."""
    for result in results.results():
        file.write(result.encode() + b"\n")


def write_failed(results: Results, file: BinaryIO) -> None:
    """Write each ``JobFailure`` as a line."""
    for failure in results.failures():
        file.write(failure.model_dump_json(exclude_none=True).encode() + b"\n")
