"""Tests of the files that a recorder has written, as the supervision lists and reads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve_app.errors import NotFound, Unavailable
from serve_app.streams.outputs.recordings import Recordings, name_at
from tests.support.recordings import STARTED_AT_S, Recorded


def written(folder: Path, *at_s: float) -> list[str]:
    """Write a clip and a snapshot for each time, and return the names, the newest first."""
    folder.mkdir(exist_ok=True)
    names = [name_at(each) for each in at_s]
    for name in names:
        (folder / f"{name}.mp4").write_bytes(b"clip of " + name.encode())
        (folder / f"{name}.jpg").write_bytes(b"snapshot")
    return sorted(names, reverse=True)


def test_the_recordings_of_a_recorder_are_listed_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "lot"
    recorded = Recorded(folder, pre_roll_s=0, post_roll_s=1)
    recorded.show(0.5, "car")
    while not recorded.clips:
        pass
    recordings = Recordings(folder, STARTED_AT_S)
    (running,) = recordings.page(None, 10).recordings
    assert (running.clip, running.size_bytes, running.triggered_at_s) == (None, None, STARTED_AT_S + 0.5)
    assert recordings.read(str(running.snapshot), 0, 3).data == b"\xff\xd8\xff"
    (notice,) = recorded.close()
    (finished,) = recordings.page(None, 10).recordings
    assert (finished.clip, finished.snapshot) == (notice.clip, notice.snapshot)
    data = (folder / notice.clip).read_bytes()
    piece = recordings.read(notice.clip, 4, 4)
    assert (piece.data, piece.size_bytes, finished.size_bytes) == (b"ftyp", len(data), len(data))
    assert recordings.read(notice.clip, len(data), 10).data == b""


def test_recordings_are_listed_in_pages_the_newest_first(tmp_path: Path) -> None:
    names = written(tmp_path, 5, 1, 3, 2, 4)
    recordings, found, before = Recordings(tmp_path, 0), [], None
    while True:
        page = recordings.page(before, 2)
        found.append([one.name for one in page.recordings])
        if page.next is None:
            break
        before = page.next
    assert found == [names[:2], names[2:4], names[4:]]


def test_a_stream_has_no_recordings_of_an_earlier_stream_with_its_id(tmp_path: Path) -> None:
    names = written(tmp_path, 100, 200.5, 300)
    recordings = Recordings(tmp_path, 200.5)
    assert [one.name for one in recordings.page(None, 10).recordings] == names[:2]
    with pytest.raises(NotFound, match="no recording named"):
        recordings.read(f"{names[2]}.mp4", 0, 10)


def test_a_folder_that_does_not_exist_has_no_recordings(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path / "lot", 0)
    assert recordings.page(None, 10).recordings == []
    with pytest.raises(NotFound):
        recordings.read("2026-01-01T00-00-00.000Z.mp4", 0, 1)


@pytest.mark.parametrize(
    "file_name",
    [
        "events.jsonl",
        "../secret",
        "..",
        "",
        "2026-01-01T00-00-00.000Z.mp4/../../secret",
        "2026-01-01T00-00-00.000Z.mp4\0",
        "２026-01-01T00-00-00.000Z.mp4",
        "2026-01-01T00-00-00.000Z.MP4",
        "2026-13-01T00-00-00.000Z.mp4",
    ],
)
def test_no_other_file_is_listed_or_read(tmp_path: Path, file_name: str) -> None:
    folder = tmp_path / "lot"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    if file_name and "/" not in file_name and "\0" not in file_name and file_name != "..":
        (folder / file_name).write_bytes(b"other")
    recordings = Recordings(folder, 0)
    assert recordings.page(None, 10).recordings == []
    with pytest.raises(NotFound):
        recordings.read(file_name, 0, 10)


def test_a_clip_that_is_not_finished_is_listed_but_not_sent(tmp_path: Path) -> None:
    (name,) = written(tmp_path, 1)
    (tmp_path / f"{name}.mp4").rename(tmp_path / f"{name}.mp4.part")
    (one,) = Recordings(tmp_path, 0).page(None, 10).recordings
    assert (one.clip, one.snapshot) == (None, f"{name}.jpg")
    with pytest.raises(NotFound):
        Recordings(tmp_path, 0).read(f"{name}.mp4.part", 0, 1)


def test_a_snapshot_without_a_clip_is_not_listed(tmp_path: Path) -> None:
    (whole, alone) = written(tmp_path, 2, 1)
    (tmp_path / f"{alone}.mp4").unlink()
    assert [one.name for one in Recordings(tmp_path, 0).page(None, 10).recordings] == [whole]


def test_a_folder_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "lot").write_bytes(b"no folder")
    recordings = Recordings(tmp_path / "lot", 0)
    for step in (lambda: recordings.page(None, 10), lambda: recordings.read("2026-01-01T00-00-00.000Z.mp4", 0, 1)):
        with pytest.raises(Unavailable, match="output_dir cannot be read"):
            step()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "lot"
    (name,) = written(folder, 1)
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / f"{name}.mp4").unlink()
    os.symlink(tmp_path / "secret", folder / f"{name}.mp4")
    with pytest.raises(NotFound):
        Recordings(folder, 0).read(f"{name}.mp4", 0, 10)


def test_a_file_with_an_impossible_day_does_not_stop_the_list(tmp_path: Path) -> None:
    (tmp_path / "2026-02-31T00-00-00.000Z.mp4").write_bytes(b"clip")
    assert len(Recordings(tmp_path, 0).page(None, 10).recordings) == 1
