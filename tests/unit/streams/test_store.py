from __future__ import annotations

import logging
from pathlib import Path

import pytest

from serve_app.schemas.streams import SourceSpec, StreamSpec, StreamStatus
from serve_app.streams.store import Record, StreamStore


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


def test_only_the_owner_may_read_the_store(tmp_path: Path) -> None:
    store = StreamStore(tmp_path / "app")
    store.put(record())
    assert store.acquire()
    store.bookmark_file("lot").close()
    assert (tmp_path / "app").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "app").iterdir()} == {0o600}


def test_an_unreadable_record_is_kept_and_affects_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = StreamStore(tmp_path)
    store.put(record())
    (tmp_path / "yard.json").write_text('{"spec": {"source": {"uri": "rtsp://user:secret@host"}, "typo": 1}}')
    with caplog.at_level(logging.ERROR):
        assert store.records() == [record()]
    assert "yard" in caplog.text
    assert "secret" not in caplog.text
    assert (tmp_path / "yard.json").exists()


def test_one_process_at_a_time_holds_the_store(tmp_path: Path) -> None:
    first, second = StreamStore(tmp_path), StreamStore(tmp_path)
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
