"""Tests of the limits of a runner, and of what it frees and closes."""

from __future__ import annotations

import asyncio
import os
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from serve_app.errors import (
    NotFound,
)
from serve_app.images.prepare import prepare
from serve_app.jobs.running import items, opened
from serve_app.jobs.units import Item
from serve_app.schemas.jobs import FilesSource
from serve_app.types import Letterbox, Pixels
from tests.support.deadly_decoder import DEADLY_WIDTH_PX, prepare_or_die
from tests.support.job_runners import WIDTH_PX, bench, parsed, picture

pytestmark = pytest.mark.anyio


async def test_a_cancelled_unit_frees_its_slots_only_when_decoding_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a slot were freed earlier, the decoder could write this image over another image in the same slot."""
    decoding, may_continue = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        decoding.set()
        assert may_continue.wait(30)
        return prepare(*arguments)

    monkeypatch.setattr(items, "prepare", slow)
    async with bench(tmp_path) as made:
        task = asyncio.create_task(made.run(made.unit(8)))
        await asyncio.to_thread(decoding.wait, 30)
        for _ in range(2):
            task.cancel()
            await asyncio.wait([task], timeout=0.2)
            assert not task.done()
            assert made.detector.pool.leased > 0
        may_continue.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert made.detector.pool.leased == 0


async def test_a_cancelled_unit_frees_what_waits_for_an_answer(tmp_path: Path) -> None:
    sent = asyncio.Event()

    async def never(fitted: Letterbox) -> None:
        sent.set()
        await asyncio.Event().wait()

    async with bench(tmp_path) as made:
        made.detector.before = never
        for unit in (made.unit(8), made.clip()):
            sent.clear()
            task = asyncio.create_task(made.run(unit))
            await sent.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert made.detector.pool.leased == 0


async def test_encoded_images_never_need_more_memory_than_the_budget(tmp_path: Path) -> None:
    async with bench(tmp_path, max_memory_mib=64) as made:
        unit = made.unit(24)
        budget, most = made.runner._shared.budget, 0
        read, large = made.source.read, bytes(16 << 20)

        async def read_large(item: Item) -> bytes:
            nonlocal most
            most = max(most, budget.used_bytes)
            await read(item)
            return large + b"\0"  # a new object of 16 MiB; it is not an image

        made.source.read = read_large  # type: ignore[method-assign]
        sized = replace(unit, items=tuple(replace(item, size_bytes=16 << 20) for item in unit.items))
        tracemalloc.start()
        try:
            result = await made.run(sized)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(result.failed) == 24
        assert most == 64 << 20
        assert peak_bytes < 90 << 20  # without the budget, 16 reads at the same time would need 256 MiB


async def test_an_image_of_unknown_size_counts_as_the_largest_allowed_one_until_it_is_read(tmp_path: Path) -> None:
    async with bench(tmp_path, max_memory_mib=64) as made:
        budget = made.runner._shared.budget
        held = []

        async def note(fitted: Letterbox) -> None:
            held.append(budget.used_bytes)

        made.detector.before = note
        await made.run(made.unit(1))
        assert held == [(made.source.folder / "0.png").stat().st_size]


async def test_units_are_read_while_others_wait_for_the_detector(tmp_path: Path) -> None:
    may_answer = asyncio.Event()

    async def wait(fitted: Letterbox) -> None:
        await may_answer.wait()

    async with bench(tmp_path) as made:
        made.detector.before = wait
        tasks = [asyncio.create_task(made.run(made.unit(4, number=number))) for number in range(2)]
        async with asyncio.timeout(10):
            while len(made.source.reads) < 8:  # the source cannot notify the test
                await asyncio.sleep(0.01)
        may_answer.set()
        assert [len((await task).results) for task in tasks] == [4, 4]


async def test_decoding_threads_have_a_low_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def note(*arguments: Any) -> Any:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return prepare(*arguments)

    monkeypatch.setattr(items, "prepare", note)
    async with bench(tmp_path) as made:
        await made.run(made.unit(1))
    assert seen == [max(10, os.getpriority(os.PRIO_PROCESS, 0))]


# Images that kill a decoder


async def test_of_a_suspect_unit_only_the_image_that_kills_the_decoder_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "prepare_new", prepare_or_die)
    async with bench(tmp_path) as made:
        assert WIDTH_PX + 1 == DEADLY_WIDTH_PX
        result = await made.run(made.unit(3, is_suspect=True))
        assert [(each.item, each.code) for each in result.failed] == [(101, "poison")]
        assert parsed(result) == parsed(await made.run(made.unit(3, todo=(100, 102))))


# The images of items


async def test_the_image_of_an_item_is_shown_with_and_without_its_boxes(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        for unit in (made.unit(3), made.clip(), made.unit(3, is_suspect=True)):
            boxes = dict((await made.run(unit)).results)[102]
            plain = _decoded(await made.runner.picture(unit, made.spec(), 102, None))
            drawn = _decoded(await made.runner.picture(unit, made.spec(), 102, boxes))
            assert plain.shape == drawn.shape == picture(2).shape
            assert np.abs(plain.astype(int) - 100).max() < 5
            assert np.abs(drawn.astype(int) - 100).max() > 50


def _decoded(jpeg: bytes) -> Pixels:
    pixels: Pixels | None = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels


async def test_a_number_outside_the_unit_is_not_found(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        for unit in (made.unit(3), made.clip()):
            for number in (99, 103):
                with pytest.raises(NotFound):
                    await made.runner.picture(unit, made.spec(), number, None)


# Sources


async def test_a_source_stays_open_between_units_and_is_closed_when_it_is_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path) as made:
        await made.run(made.unit(1))
        await made.runner.check()
        assert not made.source.is_closed
        monkeypatch.setattr(opened, "_KEEP_S", 0.0)
        await made.runner.check()
        assert made.source.is_closed


async def test_a_source_is_neither_closed_nor_opened_again_while_a_unit_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openings = 0

    def opener(*_: object) -> Any:
        nonlocal openings
        openings += 1
        return made.source

    async def run_another(fitted: Letterbox) -> None:
        made.detector.before = made.detector.at_once
        await made.runner.check()
        assert not made.source.is_closed
        assert len((await made.run(made.unit(1))).results) == 1

    monkeypatch.setattr(opened, "_KEEP_S", -1.0)
    async with bench(tmp_path) as made:
        made.detector.before, made.runner._jobs._opener = run_another, opener
        assert len((await made.run(made.unit(2))).results) == 2
        assert openings == 1
        await made.runner.check()
        assert made.source.is_closed


async def test_a_new_job_with_the_id_of_a_deleted_one_reads_its_own_source(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        opened_paths = []

        def note(source: Any, *_: object) -> Any:
            opened_paths.append(source.path)
            return made.source

        made.runner._jobs._opener = note
        for path in ("in", "in", "other"):
            spec = made.spec().model_copy(update={"source": FilesSource(type="files", path=path)})
            await made.runner.run(made.unit(1), spec, None)
        assert opened_paths == ["in", "other"]
