"""The sink that writes events to JSON Lines files."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from serve_app.errors import InvalidParameter
from serve_app.schemas.streams import SinkSpec
from serve_app.sinks import jsonl
from tests.support.file_sizes import files_of_at_most
from tests.support.sinks import event, new_sink, until

pytestmark = pytest.mark.anyio
LINE_BYTES = len(event(10).json) + 1  # equal for all event ids of two digits


def lines_of(path: Path) -> list[int]:
    return [json.loads(line)["event_id"] for line in path.read_text().splitlines()]


async def test_each_event_is_one_line_in_a_file_that_only_the_owner_may_read(tmp_path: Path) -> None:
    sink = new_sink(tmp_path, type="jsonl", path="{stream_id}/{type}.{x}.jsonl")
    for event_id in range(5):
        sink.put(event(event_id, "result" if event_id % 2 else "state"))
    await sink.close(60)
    odd, even = (tmp_path / f"lot/lot/{kind}.{{x}}.jsonl" for kind in ("result", "state"))
    assert (lines_of(odd), lines_of(even)) == ([1, 3], [0, 2, 4])
    assert stat.S_IMODE(odd.stat().st_mode) == 0o600
    assert sink.status().target == "lot/lot/{type}.{x}.jsonl"


@pytest.mark.parametrize(
    "path", ["../a.jsonl", "/etc/a.jsonl", "b/../../a.jsonl", "../gate/{type}.jsonl", "out/a.jsonl", "a\0b.jsonl"]
)
async def test_a_path_that_leads_out_of_the_streams_folder_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "below/lot").mkdir(parents=True)
    (tmp_path / "below/lot/out").symlink_to(tmp_path / "below")
    with pytest.raises(InvalidParameter):
        new_sink(tmp_path / "below", type="jsonl", path=path)


@pytest.mark.parametrize(
    "fields",
    [{"path": "gate/x.mp4"}, {"path": "."}, {"path": "{type}/.."}, {"path": "a.jsonl.1"}, {"max_mib": 1e-6}],
    ids=str,
)
def test_an_invalid_file_name_or_size_limit_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(SinkSpec).validate_python({"type": "jsonl"} | fields)


async def test_rotation_keeps_as_many_files_as_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "_MIB", 3 * LINE_BYTES)
    sink = new_sink(tmp_path, type="jsonl", path="a.jsonl", max_mib=1, keep=2)

    async def until_sent(count: int) -> None:
        await until(lambda: sink.status().sent == count)

    for event_id in range(10, 21):
        sink.put(event(event_id))
        await until_sent(event_id - 9)
    await sink.close(60)
    found = {path.name: lines_of(path) for path in (tmp_path / "lot").iterdir()}
    assert found == {"a.jsonl": [19, 20], "a.jsonl.1": [16, 17, 18], "a.jsonl.2": [13, 14, 15]}


async def test_a_new_sink_appends_to_an_existing_file(tmp_path: Path) -> None:
    for event_id in range(3):
        sink = new_sink(tmp_path, type="jsonl")
        sink.put(event(event_id))
        await sink.close(60)
    assert lines_of(tmp_path / "lot/events.jsonl") == [0, 1, 2]


async def test_the_sink_retries_until_a_missing_folder_exists(tmp_path: Path) -> None:
    sink = new_sink(tmp_path / "mounted-later", type="jsonl", path="a/b.jsonl")
    sink.put(event(0))
    await until(lambda: sink.status().detail == "the file cannot be written: No such file or directory")
    (tmp_path / "mounted-later").mkdir()
    await until(lambda: sink.status().sent)
    assert lines_of(tmp_path / "mounted-later/lot/a/b.jsonl") == [0]
    await sink.close(0)


async def test_the_sink_retries_until_a_full_disk_has_space(tmp_path: Path) -> None:
    sink = new_sink(tmp_path, type="jsonl", path="a.jsonl")
    (tmp_path / "lot").mkdir()
    (tmp_path / "lot/a.jsonl").symlink_to("/dev/full")
    sink.put(event(0))
    await until(lambda: sink.status().detail == "the file cannot be written: No space left on device")
    sink.put(event(1))
    (tmp_path / "lot/a.jsonl").unlink()
    await until(lambda: sink.status().sent == 2)
    assert lines_of(tmp_path / "lot/a.jsonl") == [0, 1]
    await sink.close(0)


async def test_a_batch_that_fits_only_in_part_leaves_no_partial_line(tmp_path: Path) -> None:
    full = 64 << 20
    before, path = full - LINE_BYTES - 20, tmp_path / "lot/a.jsonl"
    path.parent.mkdir()
    sink = new_sink(tmp_path, type="jsonl", path="a.jsonl", max_mib=1000)
    with path.open("wb") as file:
        file.truncate(before)
    with files_of_at_most(full):
        for event_id in range(10, 13):
            sink.put(event(event_id))
        await until(lambda: sink.status().detail == "the file cannot be written: File too large")
        assert path.stat().st_size == before
    await until(lambda: sink.status().sent == 3)
    assert path.read_bytes()[before:].count(b"\n") == 3
    assert path.stat().st_size == before + 3 * LINE_BYTES
    await sink.close(0)
