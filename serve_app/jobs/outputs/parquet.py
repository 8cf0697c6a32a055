"""Parquet: one detected object per row."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

from serve_app.errors import InvalidParameter
from serve_app.jobs.outputs.results import Results, box_rows
from serve_app.schemas.jobs import BoxRow

NAME = "results.parquet"
_ROWS_PER_BATCH = 8_192  # as Python objects, which take ten times the memory
_BATCHES_PER_GROUP = 8  # only one group of rows is in memory
_TYPES = {
    "item": "int64",
    "name": "string",
    "id": "string",
    "time_s": "float64",
    "width": "int32",
    "height": "int32",
    "model": "string",
    "label": "string",
    "class_id": "int32",
    "confidence": "float64",
    "x1": "float64",
    "y1": "float64",
    "x2": "float64",
    "y2": "float64",
}


def check() -> None:
    """Raise InvalidParameter if the library is not installed."""
    _import()


def write(results: Results, file: BinaryIO) -> None:
    """Write each detected object as a row. Raise InvalidParameter if the library is not installed."""
    pa, pq = _import()
    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in _TYPES.items()])
    batches = _batches(pa, schema, results)
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(batches, _BATCHES_PER_GROUP)):
            writer.write_table(pa.Table.from_batches(group))


def _batches(pa: Any, schema: Any, results: Results) -> Iterator[Any]:
    rows = box_rows(results)
    while some := list(islice(rows, _ROWS_PER_BATCH)):
        columns = dict(zip(BoxRow._fields, zip(*some, strict=True), strict=True))
        yield pa.RecordBatch.from_pydict(columns, schema)


def _import() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise InvalidParameter(
            "Parquet support is not installed on the server; run there: pip install 'sightline[parquet]'"
        ) from exc
    return pyarrow, pyarrow.parquet
