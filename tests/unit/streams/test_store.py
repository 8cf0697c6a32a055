from __future__ import annotations

import logging
from pathlib import Path

import pytest

from serve_app.schemas.streams import SourceSpec, StreamSpec, StreamStatus
from serve_app.streams.bookmark import Mark
from serve_app.streams.store import Record, StreamStore
from serve_app.types import Position


def record(stream_id: str = "lot", **fields: object) -> Record:
    return Record(spec=StreamSpec(id=stream_id, source=SourceSpec(uri="rtsp://user:secret@host/1")), **fields)


def test_a_record_is_read_as_it_was_put(tmp_path: Path) -> None:
    ended = StreamStatus(stream_id="yard", state="completed", source="a.mp4", policy="wait")
    StreamStore(tmp_path / "app").put(record("yard", ended=ended))
    StreamStore(tmp_path / "app").put(record("lot"))
    assert StreamStore(tmp_path / "app").records() == [record("lot"), record("yard", ended=ended)]


def test_a_record_is_replaced_and_deleted(tmp_path: Path) -> None:
    store = StreamStore(tmp_path)
    store.put(record())
    store.put(record(ended=StreamStatus(stream_id="lot", state="failed", source="", policy="wait")))
    assert len(store.records()) == 1
    store.delete("lot")
    store.delete("lot")
    assert store.records() == []


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    store = StreamStore(tmp_path / "app")
    store.put(record())
    assert store.hold()
    store.bookmark("lot").close()
    assert (tmp_path / "app").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "app").iterdir()} == {0o600}


def test_a_record_that_cannot_be_read_hurts_no_other_and_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = StreamStore(tmp_path)
    store.put(record())
    (tmp_path / "yard.json").write_text('{"spec": {"source": {"uri": "rtsp://user:secret@host"}, "typo": 1}}')
    with caplog.at_level(logging.ERROR):
        assert store.records() == [record()]
    assert "yard" in caplog.text
    assert "secret" not in caplog.text
    assert (tmp_path / "yard.json").exists()


def test_one_process_at_a_time_holds_it(tmp_path: Path) -> None:
    first, second = StreamStore(tmp_path), StreamStore(tmp_path)
    assert first.hold()
    assert first.hold()
    assert not second.hold()
    first.let_go()
    assert second.hold()
    second.let_go()


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
