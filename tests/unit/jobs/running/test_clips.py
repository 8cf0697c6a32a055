from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve_app.errors import Overloaded, PoisonPicture, SourceError, Unavailable, Undecodable
from serve_app.jobs.running import clips
from serve_app.jobs.units import Clip
from serve_app.types import Letterbox, Pixels
from tests.support.job_runners import WIDTH_PX, bench, number_of, parsed, picture, three_frames
from tests.unit.jobs.test_runner import changing

pytestmark = pytest.mark.anyio


async def test_each_frame_has_its_own_result_with_its_time(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        result = await made.run(made.clip())
        lines = parsed(result)
        assert [number for number, _ in result.results] == [100, 101, 102]
        assert [line["time_s"] for line in lines.values()] == [10.0, 10.1, 10.2]
        assert [line["image"]["width"] for line in lines.values()] == [WIDTH_PX, WIDTH_PX + 1, WIDTH_PX + 2]
        assert {line["name"] for line in lines.values()} == {"lot.mp4"}
        assert (result.failed, result.deferred, result.models) == ((), None, {"fake@v1": 3})


async def test_frames_whose_answers_come_late_keep_their_numbers(tmp_path: Path) -> None:
    def frames(clip: Clip) -> Iterator[tuple[float, Pixels]]:
        for index in range(40):
            yield float(index), picture(index)

    async def answer(fitted: Letterbox) -> None:
        for _ in range(7 * number_of(fitted) % 11):
            await asyncio.sleep(0)

    async with bench(tmp_path) as made:
        made.source.video, made.detector.before = frames, answer
        unit = made.clip()
        first = await made.run(unit)
        assert {number: line["image"]["width"] for number, line in parsed(first).items()} == {
            100 + index: WIDTH_PX + index for index in range(40)
        }
        assert (await made.run(unit)).results == first.results


async def test_no_frame_is_decoded_before_it_may_be_sent(tmp_path: Path) -> None:
    decoded, may_answer = 0, asyncio.Event()

    def frames(clip: Clip) -> Iterator[tuple[float, Pixels]]:
        nonlocal decoded
        for index in range(50):
            decoded += 1
            yield float(index), picture(index)

    async def wait(fitted: Letterbox) -> None:
        await may_answer.wait()

    async with bench(tmp_path) as made:
        made.source.video, made.detector.before = frames, wait
        task = asyncio.create_task(made.run(made.clip()))
        await asyncio.wait([task], timeout=0.5)
        assert decoded == 2  # the size of the window
        may_answer.set()
        assert len((await task).results) == 50


async def test_a_damaged_video_keeps_the_frames_before_the_damage(tmp_path: Path) -> None:
    def frames(clip: Clip) -> Iterator[tuple[float, Pixels]]:
        yield from three_frames(clip)
        raise Undecodable("the video is damaged")

    async with bench(tmp_path) as made:
        made.source.video = frames
        result = await made.run(made.clip())
        assert [number for number, _ in result.results] == [100, 101, 102]
        assert [(each.item, each.name, each.code) for each in result.failed] == [(103, "lot.mp4", "undecodable")]


@pytest.mark.parametrize(("error", "code"), [(SourceError("no video"), "invalid_source"), (ValueError(), "internal")])
async def test_a_video_that_cannot_be_read_is_one_failure(tmp_path: Path, error: Exception, code: str) -> None:
    def frames(clip: Clip) -> Iterator[tuple[float, Pixels]]:
        raise error

    async with bench(tmp_path) as made:
        made.source.video = frames
        result = await made.run(made.clip())
        assert [(each.item, each.code) for each in result.failed] == [(100, code)]


async def test_a_frame_that_kills_detectors_fails_alone(tmp_path: Path) -> None:
    async def fail(fitted: Letterbox) -> None:
        if number_of(fitted) == 1:
            raise PoisonPicture("two detectors crashed on this image")

    async with bench(tmp_path) as made:
        made.detector.before = fail
        result = await made.run(made.clip())
        assert [number for number, _ in result.results] == [100, 102]
        assert [(each.item, each.code) for each in result.failed] == [(101, "poison")]


@pytest.mark.parametrize("where", ["source", "detector"])
async def test_what_is_not_the_videos_fault_defers_the_whole_clip(tmp_path: Path, where: str) -> None:
    def frames(clip: Clip) -> Iterator[tuple[float, Pixels]]:
        yield from three_frames(clip)
        raise Unavailable("the bucket does not answer")

    async def fail(fitted: Letterbox) -> None:
        if number_of(fitted) == 1:
            raise Unavailable("no replica")

    async with bench(tmp_path) as made:
        if where == "source":
            made.source.video = frames
        else:
            made.detector.before = fail
        result = await made.run(made.clip())
        assert result.deferred is not None
        assert (result.deferred.items, result.deferred.code) == (None, "unavailable")
        assert (result.results, result.failed, result.detections, result.models) == ((), (), {}, {})


async def test_a_clip_is_deferred_only_if_no_frame_is_answered(tmp_path: Path) -> None:
    async def slow(fitted: Letterbox) -> None:
        await asyncio.sleep(0.3)  # all frames together take longer than the unit's time

    async def never(fitted: Letterbox) -> None:
        await asyncio.Event().wait()

    def frames(clip: Clip) -> Iterator[tuple[float, Pixels]]:
        for index in range(10):
            yield float(index), picture(index)

    async with bench(tmp_path, unit_time_s=1.0) as made:
        made.source.video, made.detector.before = frames, slow
        assert len((await made.run(made.clip())).results) == 10
        made.detector.before = never
        result = await made.run(made.clip())
        assert result.deferred is not None
        assert (result.deferred.items, result.deferred.code) == (None, "deadline_exceeded")


async def test_a_refused_frame_is_sent_again(tmp_path: Path) -> None:
    refusals = [Overloaded("full")] * 3

    async def refuse(fitted: Letterbox) -> None:
        if refusals:
            raise refusals.pop()

    async with bench(tmp_path) as made:
        made.detector.before = refuse
        assert (len((await made.run(made.clip())).results), refusals) == (3, [])


async def test_a_model_that_changes_begins_the_clip_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.detector.before = changing(made, after=1)
        result = await made.run(made.clip())
        assert (len(result.results), result.models) == (3, {"fake@v2": 3})


async def test_the_video_is_closed_however_the_clip_ends(tmp_path: Path) -> None:
    closed: list[int] = []
    sent = asyncio.Event()

    def frames(clip: Clip) -> Iterator[tuple[float, Pixels]]:
        try:
            yield from three_frames(clip)
        finally:
            closed.append(threading.get_ident())

    async def never(fitted: Letterbox) -> None:
        sent.set()
        await asyncio.Event().wait()

    async with bench(tmp_path) as made:
        made.source.video = frames
        await made.run(made.clip())
        assert len(closed) == 1
        made.detector.before = never
        task = asyncio.create_task(made.run(made.clip()))
        await sent.wait()
        task.cancel()
        await asyncio.wait([task])
        assert len(closed) == 2
        assert threading.get_ident() not in closed  # closing may block


async def test_a_clip_with_too_many_frames_ends_with_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "CLIP_ITEMS", 3)
    async with bench(tmp_path) as made:
        result = await made.run(made.clip())
        assert [number for number, _ in result.results] == [100, 101]
        assert [(each.item, each.code) for each in result.failed] == [(102, "unreadable")]


async def test_frames_that_are_kept_for_pictures_count_in_the_budget(tmp_path: Path) -> None:
    frame_bytes, held = 1000 * 1000 * 3, []

    def frames(clip: Clip) -> Iterator[tuple[float, Pixels]]:
        for index in range(6):
            yield float(index), np.zeros((1000, 1000, 3), np.uint8)

    async def note(fitted: Letterbox) -> None:
        held.append(made.runner._shared.budget.used_bytes)
        await asyncio.sleep(0)

    async with bench(tmp_path) as made:
        made.source.video, made.detector.before = frames, note
        result = await made.run(made.clip(), outputs=[{"annotated": True}])
        assert len(result.results) == 6
        assert held[0] == frame_bytes
        assert all(count % frame_bytes == 0 for count in held[2:])
