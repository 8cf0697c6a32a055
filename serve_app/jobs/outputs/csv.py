"""CSV: one detected object per line, after a line with the names of the columns.

Names and labels are written as they are, because programs join them with other tables. In a spreadsheet, import the
file with all columns as text: a cell that begins with ``=`` would otherwise count as a formula. ``api.job_results``
writes the same lines for jobs that have not ended.
"""

from __future__ import annotations

import csv
import io
from typing import BinaryIO

from serve_app.jobs.outputs.results import Results, box_rows
from serve_app.schemas.jobs import BoxRow

NAME = "results.csv"


def write(results: Results, file: BinaryIO) -> None:
    """Write each detected object as a line."""
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    writer.writerow(BoxRow._fields)
    for row in box_rows(results):
        writer.writerow(row)
        if line.tell() > 65_536:
            _move(line, file)
    _move(line, file)


def _move(text: io.StringIO, file: BinaryIO) -> None:
    file.write(text.getvalue().encode())
    text.seek(0)
    text.truncate()
