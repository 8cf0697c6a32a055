from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO, get_args

import pytest

from serve_app.errors import NoSpace, Unavailable
from serve_app.jobs.outputs import file_name, write_format
from serve_app.jobs.outputs.files import write_file
from serve_app.schemas.jobs import Format
from tests.support.file_sizes import files_of_at_most
from tests.support.job_results import StoredResults, line


def test_a_file_is_described_by_its_size_and_hash(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        for _ in range(3):
            file.write(b"x" * 700_000)

    written = write_file(tmp_path / "new" / "file", write)
    data = (tmp_path / "new" / "file").read_bytes()
    assert (written.name, written.size_bytes) == ("file", 2_100_000)
    assert written.sha256 == hashlib.sha256(data).hexdigest()
    assert os.listdir(tmp_path / "new") == ["file"]


def test_an_error_keeps_the_previous_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_file(tmp_path / "file", fail)
    assert ((tmp_path / "file").read_bytes(), os.listdir(tmp_path)) == (b"before", ["file"])


@pytest.mark.parametrize("kind", get_args(Format))
def test_a_full_disk_leaves_no_torn_file(kind: Format, tmp_path: Path) -> None:
    # Different numbers, so that the files of all formats are large.
    boxes = [("dog", 16, n / 7919, (n / 3, n / 7, n / 11 + 60, n / 13 + 60)) for n in range(500)]
    results = StoredResults([line(number, f"{number}.jpg", *boxes[number:]) for number in range(40)])
    path = tmp_path / file_name(kind)
    with files_of_at_most(10_000), pytest.raises(NoSpace):
        write_format(kind, results, path)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_may_be_writable_later(tmp_path: Path) -> None:
    (tmp_path / "folder").write_bytes(b"a file")
    with pytest.raises(Unavailable):
        write_file(tmp_path / "folder" / "file", lambda file: file.write(b""))
