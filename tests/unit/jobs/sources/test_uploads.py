"""An uploaded file is whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from serve_app.config import AppArgs
from serve_app.errors import Conflict, InvalidParameter, NoSpace, SourceError
from serve_app.jobs.sources.uploads import put_piece
from tests.support.file_sizes import files_of_at_most
from tests.support.sources import items, names, pages, source_of

pytestmark = pytest.mark.anyio


def size(folder: Path) -> int:
    """Return the bytes of all files that were uploaded to a job's folder, including incomplete ones."""
    return sum(path.stat().st_size for path in (folder / "uploads").iterdir())


async def test_a_file_is_listed_when_its_last_piece_has_arrived(job_folder: Path, args: AppArgs) -> None:
    source = source_of(args, job_folder, type="upload")
    put_piece(job_folder, "b.jpg", 0, b"whole", last=True)
    put_piece(job_folder, "a.jpg", 0, b"first ", last=False)
    assert await names(source) == ["b.jpg"]
    assert size(job_folder) == 11
    put_piece(job_folder, "a.jpg", 6, b"last", last=True)
    assert [await source.read(item) for item in await items(source)] == [b"first last", b"whole"]
    assert size(job_folder) == 15


async def test_a_file_may_have_any_extension(job_folder: Path, args: AppArgs) -> None:
    for name in ("picture", "ü 🙂.JPG", "a..jpg"):
        put_piece(job_folder, name, 0, b"x", last=True)
    assert await names(source_of(args, job_folder, type="upload")) == ["a..jpg", "picture", "ü 🙂.JPG"]


@pytest.mark.parametrize(("name", "kind"), [("a.ZIP", "archive"), ("a.tar.gz", "archive"), ("lot.mp4", "video")])
def test_an_archive_or_a_video_is_refused(job_folder: Path, name: str, kind: str) -> None:
    with pytest.raises(InvalidParameter, match=rf"^name: {name} is not an image, .* a source of the type {kind}"):
        put_piece(job_folder, name, 0, b"x", last=True)
    assert not job_folder.exists()


def test_a_piece_may_be_repeated(job_folder: Path) -> None:
    for _ in range(2):
        put_piece(job_folder, "a.jpg", 0, b"one", last=False)
    for _ in range(2):
        put_piece(job_folder, "a.jpg", 3, b"two", last=False)
    for _ in range(2):
        put_piece(job_folder, "a.jpg", 6, b"three", last=True)
    assert (job_folder / "uploads" / "a.jpg").read_bytes() == b"onetwothree"


def test_a_file_may_be_replaced_and_stays_whole_meanwhile(job_folder: Path) -> None:
    put_piece(job_folder, "a.jpg", 0, b"old", last=True)
    put_piece(job_folder, "a.jpg", 0, b"new ", last=False)
    assert (job_folder / "uploads" / "a.jpg").read_bytes() == b"old"
    put_piece(job_folder, "a.jpg", 4, b"one", last=True)
    assert (job_folder / "uploads" / "a.jpg").read_bytes() == b"new one"


def test_a_missing_piece_is_refused(job_folder: Path) -> None:
    with pytest.raises(Conflict, match=r"a\.jpg has 0 bytes so far"):
        put_piece(job_folder, "a.jpg", 5, b"x", last=False)
    put_piece(job_folder, "a.jpg", 0, b"abc", last=False)
    with pytest.raises(Conflict, match=r"a\.jpg has 3 bytes so far"):
        put_piece(job_folder, "a.jpg", 5, b"x", last=True)
    assert not (job_folder / "uploads" / "a.jpg").exists()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/etc/x", "a/b.jpg", "a\\b.jpg", ".a.jpg", "a\0.jpg", "a\n.jpg", "\ud800.jpg", "é" * 121],
)
def test_other_names_are_refused(job_folder: Path, name: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^name: "):
        put_piece(job_folder, name, 0, b"x", last=True)
    assert not job_folder.parent.exists()


def test_the_longest_name_is_accepted(job_folder: Path) -> None:
    put_piece(job_folder, "é" * 120, 0, b"x", last=True)
    assert size(job_folder) == 1


def test_a_link_is_not_followed(job_folder: Path, tmp_path: Path) -> None:
    (job_folder / "uploads").mkdir(parents=True)
    (tmp_path / "target").write_bytes(b"kept")
    (job_folder / "uploads" / ".a.jpg.part").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links") as caught:
        put_piece(job_folder, "a.jpg", 0, b"x", last=True)
    assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "target").read_bytes() == b"kept"


def test_a_full_disk_is_reported_and_leaves_no_file(job_folder: Path) -> None:
    """A process with a limit of file sizes gets an error in the same place as one with a full disk."""
    with files_of_at_most(1000), pytest.raises(NoSpace, match="the disk is full"):
        put_piece(job_folder, "a.jpg", 0, bytes(2000), last=True)
    assert not (job_folder / "uploads" / "a.jpg").exists()


async def test_a_job_without_files_is_refused(job_folder: Path, args: AppArgs) -> None:
    (job_folder / "uploads").mkdir(parents=True)
    with pytest.raises(SourceError, match="no image"):
        await pages(source_of(args, job_folder, type="upload"))
