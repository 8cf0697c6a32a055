"""A runner of jobs with a fake Detector and a real source on the disk, for tests without Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from serve_app.config import parse_args
from serve_app.detections import Detections
from serve_app.errors import ServeAppError
from serve_app.images.map_back import to_picture
from serve_app.ipc.frame_pool import FramePool, Slot
from serve_app.jobs.runner import Runner
from serve_app.jobs.sources import MissingItem, Page
from serve_app.jobs.units import Clip, Item, Unit, UnitResult
from serve_app.schemas.jobs import FilesSource, JobSpec
from serve_app.types import Answer, DetectOptions, EngineInfo, InputShape, Letterbox, ModelInfo, Pixels, Timing

SLOTS = 4
WIDTH_PX = 20  # of the image of item 0; each further image is one pixel wider, so its size tells which item it is


def model_info(label: str, version: str) -> ModelInfo:
    """Return the properties of a model with one class."""
    engine = EngineInfo("fake", version, "fake", (label,), InputShape.square(64), end_to_end=False)
    return ModelInfo(engine, version, DetectOptions(confidence=0.5, iou=0.7, max_detections=300))


class FakeDetector:
    """A Detector that finds one dog in the middle of each image. A test may replace ``before``, which may raise."""

    def __init__(self, folder: Path) -> None:
        self.info = model_info("dog", "v1")
        self.pool = FramePool(SLOTS, self.info.input_shape, folder)
        self.queue_s = 0.0
        self.tenants: set[str] = set()
        self.in_flight = 0
        self.most_in_flight = 0
        self.is_known = True
        self.as_task: Callable[[Detections], Detections] = lambda found: found  # adds what a model's task finds
        self.before: Callable[[Letterbox], Awaitable[None]] = self.at_once

    async def at_once(self, fitted: Letterbox) -> None:
        """Let the answer come at once."""
        await asyncio.sleep(0)

    async def model(self, time_left_s: float) -> ModelInfo:
        return self.info

    def forget_model(self) -> None:
        pass

    async def detect(
        self,
        slot: Slot,
        fitted: Letterbox,
        model: ModelInfo,
        options: DetectOptions,
        *,
        time_left_s: float,
        tenant: str,
    ) -> Answer:
        self.tenants.add(tenant)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.before(fitted)
        finally:
            self.in_flight -= 1
        box = np.array([[16, 16, 48, 48]], np.float32)
        found = Detections(box, np.array([0.9], np.float32), np.zeros(1, np.int32), (model.labels[0],))
        return Answer(
            self.as_task(to_picture(found, fitted)),
            fitted.width_px,
            fitted.height_px,
            model.name,
            1,
            Timing(queue_s=self.queue_s),
            fitted.input_shape,
        )

    def close(self) -> None:
        self.pool.close()


class FolderSource:
    """The files of a folder, and one video whose frames a test may replace."""

    name = "folder"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reads: list[str] = []
        self.errors: list[ServeAppError] = []  # which the next reads raise
        self.video: Callable[[Clip], Iterator[tuple[float, Pixels]]] = three_frames
        self.is_closed = False

    def pages(self, cursor: str | None) -> AsyncIterator[Page]:
        raise NotImplementedError

    async def read(self, item: Item) -> bytes:
        self.reads.append(item.name)
        if self.errors:
            raise self.errors.pop(0)
        try:
            return await asyncio.to_thread((self.folder / item.name).read_bytes)
        except FileNotFoundError:
            raise MissingItem("the file is no longer there") from None

    def frames(self, clip: Clip) -> Iterator[tuple[float, Pixels]]:
        return self.video(clip)

    async def close(self) -> None:
        self.is_closed = True


def three_frames(clip: Clip) -> Iterator[tuple[float, Pixels]]:
    for index in range(3):
        yield clip.start_s + index / 10, picture(index)


def picture(number: int) -> Pixels:
    """Return a grey image whose width tells the number of its item."""
    return np.full((16, WIDTH_PX + number, 3), 100, np.uint8)


def number_of(fitted: Letterbox) -> int:
    """Return the number of the item whose image was letterboxed."""
    return fitted.width_px - WIDTH_PX


class Bench:
    """A runner, and all that belongs to it."""

    def __init__(self, folder: Path, *, unit_time_s: float = 20.0, **jobs: Any) -> None:
        (folder / "in").mkdir()
        self.folder = folder
        self.detector = FakeDetector(folder)
        self.source = FolderSource(folder / "in")
        args = parse_args({"jobs": {"slots": SLOTS, "decode_threads": 2} | jobs, "batcher": {"max_batch_size": 1}})
        self.runner = Runner(
            {"default": self.detector},
            args,
            folder / "jobs",
            opener=lambda *_: self.source,
            unit_time_s=unit_time_s,
        )

        self.runner._shared.quarantine._time_limit_s = 60.0  # its process starts slowly on a busy machine

    def unit(self, count: int, **changes: Any) -> Unit:
        """Write images to the disk, and return a unit of them. Its items are numbered from 100."""
        items = []
        for number in range(count):
            name = f"{number}.png"
            (self.source.folder / name).write_bytes(cv2.imencode(".png", picture(number))[1].tobytes())
            items.append(Item(name))
        return replace(Unit("night", number=3, attempt=1, first=100, items=tuple(items)), **changes)

    def clip(self, **changes: Any) -> Unit:
        """Return a unit that is the clip of a video. Its frames are numbered from 100."""
        return self.unit(0, clip=Clip("lot.mp4", 10.0, 20.0, expected=3), **changes)

    async def run(self, unit: Unit, model_version: str | None = None, **spec: Any) -> UnitResult:
        """Work on a unit of the job ``night``."""
        return await self.runner.run(unit, self.spec(**spec), model_version)

    def spec(self, **fields: Any) -> JobSpec:
        """Return the specification of the job ``night``."""
        return JobSpec(id="night", source=FilesSource(type="files", path="in"), **fields)


@asynccontextmanager
async def bench(folder: Path, **settings: Any) -> AsyncIterator[Bench]:
    """Make a runner, and close it afterwards. Fail if a slot or memory is still in use."""
    made = Bench(folder, **settings)
    try:
        yield made
        assert made.detector.pool.leased == 0
        assert made.runner._shared.budget.used_bytes == 0
        assert all(window.in_flight == 0 for _, window in made.runner._detectors.values())
    finally:
        await made.runner.close()


def parsed(result: UnitResult) -> dict[int, dict[str, Any]]:
    """Return the results of a unit by item number."""
    return {number: json.loads(text) for number, text in result.results}
