from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from serve_app.errors import NoSpace
from serve_app.images.drawing import crop
from serve_app.jobs.outputs import pictures, places
from serve_app.jobs.outputs.files import write_file
from serve_app.jobs.running import items
from serve_app.types import Pixels
from tests.support.job_runners import Bench, bench, picture

pytestmark = pytest.mark.anyio


def written(made: Bench) -> dict[str, tuple[int, ...]]:
    """Return the name and the shape of each written image."""
    folder = made.folder / "jobs" / "night" / "results"
    return {str(path.relative_to(folder)): _shape(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _shape(path: Path) -> tuple[int, ...]:
    pixels: Pixels | None = cv2.imread(str(path))
    assert pixels is not None
    return pixels.shape


@pytest.mark.parametrize("kind", ["images", "suspect images", "clip"])
async def test_annotated_images_and_crops_are_named_by_item(tmp_path: Path, kind: str) -> None:
    async with bench(tmp_path) as made:
        unit = made.clip() if kind == "clip" else made.unit(3, is_suspect=kind != "images")
        result = await made.run(unit, outputs=[{"annotated": True, "crops": True}])
        assert len(result.results) == 3
        files = written(made)
        assert list(files) == [
            *(f"annotated/{number:09d}.jpg" for number in (100, 101, 102)),
            *(f"crops/{number:09d}-000.jpg" for number in (100, 101, 102)),
        ]
        assert [files[f"annotated/{100 + number:09d}.jpg"] for number in range(3)] == [
            picture(number).shape for number in range(3)
        ]


async def test_only_what_is_wanted_is_written_and_twice_is_the_same(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        unit = made.unit(1)
        contents = []
        for _ in range(2):
            await made.run(unit, outputs=[{"annotated": True}])
            (path,) = (path for path in (made.folder / "jobs").rglob("*") if path.is_file())
            contents.append(path.read_bytes())
        assert contents[0] == contents[1]


async def test_an_item_whose_images_do_not_fit_on_the_disk_is_deferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise NoSpace("the disk is full")

    async with bench(tmp_path) as made:
        monkeypatch.setattr(places, "write_file", fail)
        result = await made.run(made.unit(2), outputs=[{"crops": True}])
        assert result.deferred is not None
        assert (result.deferred.items, result.deferred.code, result.results) == ((100, 101), "no_space", ())


@pytest.mark.parametrize("at_once", [1, 32])
async def test_many_crops_may_take_longer_than_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    def slow(*arguments: Any) -> Any:
        time.sleep(0.6)
        return write_file(*arguments)

    def eight_crops(*_: object) -> list[tuple[str, bytes]]:
        return [(f"crops/{index}.jpg", b"jpeg") for index in range(8)]

    monkeypatch.setattr(pictures, "_MAX_WRITES", at_once)
    monkeypatch.setattr(places, "write_file", slow)
    monkeypatch.setattr(items, "render_encoded", eight_crops)
    async with bench(tmp_path, unit_time_s=2.0) as made:
        result = await made.run(made.unit(1), outputs=[{"crops": True}])
        assert (len(result.results), result.failed, result.deferred) == (1, (), None)
        assert len(list((made.folder / "jobs" / "night" / "results" / "crops").iterdir())) == 8


async def test_only_some_images_wait_with_their_pictures_and_these_count_in_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg, most, made_count, written_count = bytes(1 << 20), 0, 0, 0

    def render(*_: object) -> list[tuple[str, bytes]]:
        nonlocal made_count
        made_count += 1
        return [("annotated/1.jpg", jpeg)]

    async with bench(tmp_path) as made:
        budget = made.runner._shared.budget

        async def slow(*_: object) -> None:
            nonlocal most, written_count
            assert budget.used_bytes > len(jpeg)
            await asyncio.sleep(0.5)
            most = max(most, made_count - written_count)
            written_count += 1

        monkeypatch.setattr(items, "render_encoded", render)
        monkeypatch.setattr(places.FolderPlace, "put", slow)
        result = await made.run(made.unit(32), outputs=[{"annotated": True}])
        assert len(result.results) == written_count == 32
        assert most <= 16


async def test_an_image_whose_crops_cannot_be_written_in_time_is_deferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(places.FolderPlace, "put", never)
    async with bench(tmp_path, unit_time_s=1.0) as made:
        result = await made.run(made.unit(1), outputs=[{"crops": True}])
        assert result.deferred is not None
        assert (result.deferred.items, result.deferred.code) == ((100,), "deadline_exceeded")


def test_a_crop_has_the_pixels_of_its_box_and_at_least_one() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert (crop(pixels, (1.2, 0.0, 2.9, 4.0)) == pixels[0:4, 1:3]).all()
    for box in ((5.0, 4.0, 5.0, 4.0), (0.0, 0.0, 0.0, 0.0), (-3.0, -3.0, -1.0, -1.0), (9.0, 9.0, 9.0, 9.0)):
        assert crop(pixels, box).shape == (1, 1, 3)
