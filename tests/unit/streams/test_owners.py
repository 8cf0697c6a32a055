"""The owners of streams, in the supervision and in the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import Conflict, Forbidden, NotFound
from serve_app.schemas.streams import Regions
from serve_app.streams.outputs.recordings import name_at
from serve_app.streams.store import StreamStore
from serve_app.streams.supervision import Supervision
from serve_app.types import Principal
from tests.support.fake_workers import spec_of, supervising
from tests.support.principals import ADMIN, DOCK, LOCAL, YARD
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio

CLIP = "2099-01-01T00-00-00.000Z.mp4"
CALLS: dict[str, Callable[[Supervision, str, Principal], Awaitable[Any]]] = {
    "status": lambda supervision, stream_id, who: supervision.status(stream_id, who),
    "replace": lambda supervision, stream_id, who: supervision.replace(spec_of(stream_id, max_fps=5), who),
    "delete": lambda supervision, stream_id, who: supervision.delete(stream_id, who),
    "pause": lambda supervision, stream_id, who: supervision.pause(stream_id, who),
    "resume": lambda supervision, stream_id, who: supervision.resume(stream_id, who),
    "regions": lambda supervision, stream_id, who: supervision.regions(stream_id, who),
    "set_regions": lambda supervision, stream_id, who: supervision.set_regions(stream_id, who, Regions()),
    "events": lambda supervision, stream_id, who: supervision.events(stream_id, who, None, 0),
    "snapshot": lambda supervision, stream_id, who: supervision.snapshot(stream_id, who, None, 0, False),
    "recordings": lambda supervision, stream_id, who: supervision.recordings(stream_id, who, None, 1),
    "read_recording": lambda supervision, stream_id, who: supervision.read_recording(stream_id, who, CLIP, 0, 1),
}


@pytest.fixture
def anyio_backend() -> Any:
    return BACKEND


@pytest.mark.parametrize("name", CALLS)
async def test_a_foreign_stream_answers_as_an_unknown_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / CLIP).write_bytes(b"clip")
    async with supervising(tmp_path, output_dir=tmp_path) as supervision:
        await supervision.create(spec_of("gate"), DOCK)
        stored = StreamStore(tmp_path).records()
        words = []
        for stream_id in ("gate", "yard"):
            with pytest.raises(NotFound) as refused:
                await CALLS[name](supervision, stream_id, YARD)
            words.append(refused.value.detail.replace(stream_id, "ID"))
        assert words[0] == words[1]
        assert StreamStore(tmp_path).records() == stored
        await CALLS[name](supervision, "gate", DOCK)


async def test_the_creating_key_is_the_owner_and_stays_it(tmp_path: Path) -> None:
    async with supervising(tmp_path) as supervision:
        assert (await supervision.create(spec_of("gate"), DOCK)).owner == "dock"
        assert (await supervision.create(spec_of("lot"), LOCAL)).owner is None
        assert (await supervision.replace(spec_of("gate", max_fps=5), ADMIN)).owner == "dock"
        assert (await supervision.replace(spec_of("lot", max_fps=5), YARD)).owner is None
        await supervision.pause("gate", ADMIN)
        with pytest.raises(Conflict, match="stream 'gate' already exists"):
            await supervision.create(spec_of("gate"), YARD)
    async with supervising(tmp_path) as supervision:
        owners = {status.stream_id: status.owner for status in await supervision.all(ADMIN)}
        assert owners == {"gate": "dock", "lot": None}
        assert [status.stream_id for status in await supervision.all(YARD)] == ["lot"]


async def test_only_an_administrator_gives_a_stream_an_owner_and_only_once(tmp_path: Path) -> None:
    async with supervising(tmp_path) as supervision:
        await supervision.create(spec_of("lot"), LOCAL)
        for stream_id in ("lot", "unknown"):
            with pytest.raises(Forbidden, match="'admin'"):
                await supervision.set_owner(stream_id, DOCK, "dock")
        assert (await supervision.set_owner("lot", ADMIN, "dock")).owner == "dock"
        assert (await supervision.set_owner("lot", ADMIN, "dock")).owner == "dock"
        with pytest.raises(Conflict, match="belongs to 'dock'"):
            await supervision.set_owner("lot", ADMIN, "yard")
        with pytest.raises(NotFound):
            await supervision.set_owner("unknown", ADMIN, "dock")
    assert [record.owner for record in StreamStore(tmp_path).records()] == ["dock"]


async def test_a_change_that_waits_is_refused_when_the_stream_gets_another_owner(tmp_path: Path) -> None:
    async with supervising(tmp_path) as supervision:
        await supervision.create(spec_of("lot"), LOCAL)
        async with supervision.registry.changing("lot", ADMIN) as stream:
            deletion = asyncio.create_task(supervision.delete("lot", YARD))
            await asyncio.sleep(1)  # in virtual time
            await supervision.registry.put(stream, owner="dock")
        with pytest.raises(NotFound):
            await deletion
        assert (await supervision.status("lot", DOCK)).owner == "dock"


async def test_a_record_of_an_older_version_has_no_owner(tmp_path: Path) -> None:
    store = StreamStore(tmp_path)
    (tmp_path / "lot.json").write_text('{"spec": {"id": "lot", "source": {"uri": "rtsp://camera/1"}}, "restarts": 2}')
    assert [(record.owner, record.restarts) for record in store.records()] == [(None, 2)]
    async with supervising(tmp_path) as supervision:
        assert (await supervision.status("lot", YARD)).owner is None
        await supervision.pause("lot", DOCK)


async def test_a_new_stream_does_not_show_the_recordings_of_a_deleted_one(tmp_path: Path) -> None:
    folder = tmp_path / "gate"
    folder.mkdir()

    def record() -> str:
        clip = f"{name_at(time.time())}.mp4"
        (folder / clip).write_bytes(b"clip")
        return clip

    async def clips(supervision: Supervision, who: Principal) -> list[str | None]:
        return [one.clip for one in (await supervision.recordings("gate", who, None, 10)).recordings]

    async with supervising(tmp_path, output_dir=tmp_path) as supervision:
        await supervision.create(spec_of("gate"), DOCK)
        old = record()
        await supervision.replace(spec_of("gate", max_fps=5), DOCK)
        assert await clips(supervision, DOCK) == [old]
        time.sleep(0.002)  # the names of recordings have milliseconds
        await supervision.delete("gate", DOCK)
        await supervision.create(spec_of("gate"), YARD)
        assert await clips(supervision, YARD) == []
        with pytest.raises(NotFound):
            await supervision.read_recording("gate", YARD, old, 0, 1)
        new = record()
    async with supervising(tmp_path, output_dir=tmp_path) as supervision:
        assert await clips(supervision, YARD) == [new]
