from __future__ import annotations

from pathlib import Path

from serve_app.streams.bookmark import Bookmark
from serve_app.streams.store import StreamStore
from serve_app.types import Position


def test_a_bookmark_is_read_as_it_was_last_written(tmp_path: Path) -> None:
    store = StreamStore(tmp_path)
    bookmark_file = store.bookmark_file("lot")
    assert bookmark_file.read() is None
    long = Bookmark(next_frame_id=10**9, dropped={"newer_frame": 10**9}, position=Position(12345, 1 / 3))
    for written in (long, Bookmark(next_frame_id=1), long, Bookmark(next_frame_id=2, position=Position(1))):
        bookmark_file.write(written)
        other = store.bookmark_file("lot")
        assert other.read() == written
        other.close()
    bookmark_file.close()


def test_a_bookmark_is_deleted_with_its_stream_even_while_it_is_written(tmp_path: Path) -> None:
    store = StreamStore(tmp_path)
    bookmark_file = store.bookmark_file("lot")
    store.delete("lot")
    bookmark_file.write(Bookmark(next_frame_id=5))
    bookmark_file.close()
    recreated = store.bookmark_file("lot")
    assert recreated.read() is None
    recreated.close()


def test_a_partially_written_bookmark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "lot.mark").write_bytes(b'{"next_frame_id": 1')
    bookmark_file = StreamStore(tmp_path).bookmark_file("lot")
    assert bookmark_file.read() is None
    bookmark_file.close()


def test_a_bookmark_of_an_earlier_version_keeps_the_streams_clock(tmp_path: Path) -> None:
    (tmp_path / "lot.mark").write_bytes(b'{"next_frame_id": 7, "at_s": 2.5, "position": {"index": 6, "at_s": 0.5}}')
    bookmark = StreamStore(tmp_path).bookmark("lot")
    assert bookmark is not None
    assert bookmark.position is not None
    assert (bookmark.next_frame_id, bookmark.stream_time_s, bookmark.position.index) == (7, 2.5, 6)
