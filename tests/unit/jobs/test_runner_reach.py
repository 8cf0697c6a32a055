"""Tests of a runner whose items, source or outputs cannot be reached."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import cv2
import pytest

from serve_app.config import AppArgs, parse_args
from serve_app.errors import Unfetchable, UrlUnavailable
from serve_app.jobs.outputs import OutputUnwritable, places
from serve_app.jobs.runner import Runner
from serve_app.jobs.running import items
from serve_app.jobs.sources import Source, open_source
from serve_app.jobs.units import Clip, Item, Unit, UnitResult
from serve_app.schemas.jobs import JobSpec
from tests.support.archives import pack
from tests.support.job_runners import FakeDetector, bench, picture
from tests.support.web_server import WebServer, ok

pytestmark = pytest.mark.anyio


async def test_a_url_that_cannot_be_fetched_fails_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.source.errors = [Unfetchable("the server responds with status 404")]
        result = await made.run(made.unit(1), attempts=3)
        assert ([each.code for each in result.failed], result.deferred) == (["unfetchable"], None)
        assert made.source.reads == ["0.png"]


async def test_a_url_whose_server_may_recover_is_fetched_again_after_growing_pauses(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.source.errors = [UrlUnavailable("status 503")] * 3
        pauses_s = []
        for attempt in (1, 2, 3):
            deferred = (await made.run(made.unit(1, attempt=attempt), attempts=4)).deferred
            assert deferred is not None
            assert (deferred.items, deferred.code, deferred.detail) == ((100,), "unavailable", "status 503")
            pauses_s.append(deferred.retry_after_s)
        assert pauses_s == [5, 20, 80]
        assert len((await made.run(made.unit(1, attempt=4), attempts=4)).results) == 1


async def test_a_url_fails_when_its_server_has_failed_in_all_attempts(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.source.errors = [UrlUnavailable("status 503")] * 3
        assert (await made.run(made.unit(1), attempts=2)).deferred is not None
        result = await made.run(made.unit(1, attempt=2), attempts=2)
        assert [(each.code, each.detail) for each in result.failed] == [("unfetchable", "status 503 (attempt 2 of 2)")]
        assert (await made.run(made.unit(1, attempt=3), attempts=2)).deferred is not None  # the client retries it


async def test_one_url_of_a_unit_that_is_tried_again_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.source.errors = [UrlUnavailable("status 503")]
        result = await made.run(made.unit(3))
        assert len(result.results) == 2
        assert result.deferred is not None
        assert len(result.deferred.items or ()) == 1


async def test_a_source_that_never_answers_fails_only_in_the_last_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "_READ_TIME_S", 0.1)
    async with bench(tmp_path) as made:
        made.source.read = never  # type: ignore[method-assign]
        first = await made.run(made.unit(1), attempts=2)
        assert first.deferred is not None
        assert first.deferred.items == (100,)
        second = await made.run(made.unit(1, attempt=2), attempts=2)
        assert ([each.code for each in second.failed], second.deferred) == (["unfetchable"], None)


async def test_an_outage_of_the_detectors_does_not_count_as_an_attempt_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage, a unit was deferred many times, and its first slow read must not be the last."""
    monkeypatch.setattr(items, "_READ_TIME_S", 0.1)
    async with bench(tmp_path) as made:
        made.source.read = never  # type: ignore[method-assign]
        result = await made.run(made.unit(1, attempt=50), attempts=2)
        assert (result.failed, result.deferred and result.deferred.items) == ((), (100,))


async def test_a_new_job_with_the_id_of_a_deleted_one_has_all_its_attempts(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        for _ in range(2):  # the units of a new job begin with attempt 1
            made.source.errors = [UrlUnavailable("status 503")]
            assert (await made.run(made.unit(1), attempts=2)).deferred is not None


async def never(item: Item) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


# Sources that are gone, and outputs that cannot be written


@pytest.mark.parametrize("kind", ["folder", "file", "archive"])
async def test_items_of_a_source_that_was_removed_are_missing(tmp_path: Path, kind: str) -> None:
    """A runner that opens the source only now must not try that again and again."""
    media = tmp_path / "media"
    (media / "photos").mkdir(parents=True)
    (media / "photos" / "a.jpg").write_bytes(b"x")
    path = media / "photos" if kind == "folder" else media / "photos" / "a.jpg"
    if kind == "archive":
        path = pack(media / "a.zip", {"a.jpg": b"x"})
    args = parse_args({"streams": {"media_dirs": str(media)}, "jobs": {"slots": 1}})
    spec = JobSpec.model_validate(
        {"id": "night", "source": {"type": "archive" if kind == "archive" else "files", "path": str(path)}}
    )
    (item,) = await listed(open_source(spec.source, args, tmp_path / "night"))
    shutil.rmtree(media / "photos")
    (media / "a.zip").unlink(missing_ok=True)
    result = await run_fresh(tmp_path, args, Unit("night", 0, 1, 7, (item,)), spec)
    assert result.deferred is None
    assert [(each.item, each.name, each.code) for each in result.failed] == [(7, "a.jpg", "missing")]
    assert result.failed[0].detail.endswith(f"{path.name} does not exist")


@pytest.mark.parametrize(("todo", "expected"), [(None, [7]), ((9, 12), [9, 12])])
async def test_the_clip_of_a_video_that_was_removed_is_missing(
    tmp_path: Path, todo: tuple[int, ...] | None, expected: list[int]
) -> None:
    args = parse_args({"streams": {"media_dirs": str(tmp_path)}, "jobs": {"slots": 1}})
    spec = JobSpec.model_validate({"id": "night", "source": {"type": "video", "path": str(tmp_path / "lot.mp4")}})
    unit = Unit("night", 0, 1, 7, clip=Clip("lot.mp4", 0, 10, expected=250), todo=todo)
    result = await run_fresh(tmp_path, args, unit, spec)
    assert result.deferred is None
    assert [(each.item, each.name, each.code) for each in result.failed] == [
        (item, "lot.mp4", "missing") for item in expected
    ]


async def test_items_of_a_source_that_is_no_longer_allowed_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"x")
    args = parse_args({"streams": {"media_dirs": str(tmp_path / "media")}, "jobs": {"slots": 1}})
    spec = JobSpec.model_validate({"id": "night", "source": {"type": "files", "path": str(tmp_path / "a.jpg")}})
    result = await run_fresh(tmp_path, args, Unit("night", 0, 1, 7, (Item("a.jpg"),)), spec)
    assert (result.deferred, [each.code for each in result.failed]) == (None, ["unreadable"])


async def test_listed_urls_are_fetched_without_their_list(tmp_path: Path) -> None:
    args = parse_args(
        {
            "streams": {"media_dirs": str(tmp_path)},
            "outbound": {"detect_urls": True, "allowed_networks": "127.0.0.2/32"},
            "jobs": {"slots": 1},
        }
    )
    spec = JobSpec.model_validate({"id": "night", "source": {"type": "urls", "path": str(tmp_path / "gone.txt")}})
    server = WebServer()
    await server.start()
    try:
        server.answers["/a.png"] = ok(cv2.imencode(".png", picture(0))[1].tobytes())
        server.answers["/503.png"] = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
        server.answers["/404.png"] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        urls = tuple(Item(f"{server.url}/{name}.png") for name in ("a", "503", "404"))
        result = await run_fresh(tmp_path, args, Unit("night", 0, 1, 7, urls), spec)
    finally:
        await server.stop()
    assert [number for number, _ in result.results] == [7]
    assert [(each.item, each.code) for each in result.failed] == [(9, "unfetchable")]
    assert result.deferred is not None
    assert (result.deferred.items, result.deferred.code, result.deferred.retry_after_s) == ((8,), "unavailable", 5)


@pytest.mark.parametrize("kind", ["images", "clip"])
async def test_an_output_that_can_never_be_written_ends_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def fail(*_: object) -> None:
        raise OutputUnwritable("the bucket does not exist")

    monkeypatch.setattr(places, "write_file", fail)
    async with bench(tmp_path) as made:
        with pytest.raises(OutputUnwritable):
            await made.run(made.clip() if kind == "clip" else made.unit(3), outputs=[{"annotated": True}])


async def listed(source: Source) -> list[Item]:
    return [item async for page in source.pages(None) for unit in page.units for item in unit.items]


async def run_fresh(folder: Path, args: AppArgs, unit: Unit, spec: JobSpec) -> UnitResult:
    """Let a new runner work on a unit. It opens the source of the job itself."""
    detector = FakeDetector(folder)
    runner = Runner({"default": detector}, args, folder / "jobs")
    try:
        return await runner.run(unit, spec, None)
    finally:
        await runner.close()
