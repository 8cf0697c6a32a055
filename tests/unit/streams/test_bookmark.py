from __future__ import annotations

from pathlib import Path

from serve_app.streams.bookmark import Mark
from serve_app.streams.store import StreamStore
from serve_app.types import Position


def test_a_mark_is_where_it_was_moved_last(tmp_path: Path) -> None:
    store = StreamStore(tmp_path)
    bookmark = store.bookmark("lot")
    assert bookmark.read() is None
    long = Mark(next_frame_id=10**9, dropped={"newer_frame": 10**9}, position=Position(12345, 1 / 3))
    for mark in (long, Mark(next_frame_id=1), long, Mark(next_frame_id=2, position=Position(1))):
        bookmark.write(mark)
        other = store.bookmark("lot")
        assert other.read() == mark
        other.close()
    bookmark.close()


def test_a_mark_goes_with_its_stream_even_while_somebody_moves_it(tmp_path: Path) -> None:
    store = StreamStore(tmp_path)
    bookmark = store.bookmark("lot")
    store.delete("lot")
    bookmark.write(Mark(next_frame_id=5))
    bookmark.close()
    anew = store.bookmark("lot")
    assert anew.read() is None
    anew.close()


def test_a_mark_that_is_torn_is_none(tmp_path: Path) -> None:
    (tmp_path / "lot.mark").write_bytes(b'{"next_frame_id": 1')
    bookmark = StreamStore(tmp_path).bookmark("lot")
    assert bookmark.read() is None
    bookmark.close()
