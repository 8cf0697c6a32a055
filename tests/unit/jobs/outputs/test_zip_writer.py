from __future__ import annotations

import io
import zipfile

from serve_app.jobs.outputs.zip_writer import ZipWriter


def test_members_have_their_contents_and_one_date() -> None:
    file = io.BytesIO()
    with ZipWriter(file) as archive:
        archive.add("a/b.txt", b"text" * 1000)
        archive.add("Hütte.txt", b"")
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert {info.filename: info.file_size for info in archive.infolist()} == {"a/b.txt": 4000, "Hütte.txt": 0}
        assert archive.read("a/b.txt") == b"text" * 1000
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert len(file.getvalue()) < 400


def test_an_archive_may_have_more_members_than_sixteen_bits_count() -> None:
    file = io.BytesIO()
    with ZipWriter(file) as archive:
        for number in range(65_540):
            archive.add(f"{number}", b"")
    with zipfile.ZipFile(file) as archive:
        assert len(archive.infolist()) == 65_540
        assert archive.namelist()[-1] == "65539"


def test_members_beyond_four_gibibytes_are_found() -> None:
    file = io.BytesIO()
    start = 0xFFFFFFFF - 20  # the second member begins just above the limit of 32 bits
    with ZipWriter(file) as archive:
        archive._offset = start
        archive.add("first", b"1")
        archive.add("second", b"2")
    with zipfile.ZipFile(_Shifted(file.getvalue(), start)) as archive:
        assert (archive.read("first"), archive.read("second")) == (b"1", b"2")


def test_an_error_leaves_no_end_of_the_archive() -> None:
    file = io.BytesIO()
    archive = ZipWriter(file)
    archive.add("a", b"")
    archive.__exit__(RuntimeError)
    assert not zipfile.is_zipfile(file)


class _Shifted(io.RawIOBase):
    """A large file that begins with zeros, which are not stored."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start, self._at = data, start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._start + len(self._data)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        begin = self._at - self._start
        data = self._data[begin:] if size < 0 else self._data[begin : begin + size]
        self._at += len(data)
        return data
