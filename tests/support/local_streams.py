"""Streams and a fake Detector, which run in the test's process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.config import StreamArgs
from serve_app.detections import Detections
from serve_app.ipc.frame_pool import FramePool, Slot
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import SourceSpec, StreamSpec, Zone
from serve_app.streams.store import StreamStore
from serve_app.streams.stream import Stream
from serve_app.types import Answer, DetectOptions, EngineInfo, Event, InputShape, Letterbox, ModelInfo, Timing
from serve_app.video.source import parse_source
from tests.support import squares
from tests.support.videos import frame_shown

FRAMES = 20
MODEL = ModelInfo(
    EngineInfo("fake", "1", "fake", squares.LABELS, InputShape.square(squares.SIZE_PX), end_to_end=True),
    version="1",
    defaults=DetectOptions(confidence=0.5, iou=0.7, max_detections=300),
)
EVERYWHERE = Zone(name="all", polygon=[(0, 0), (1, 0), (1, 1), (0, 1)])


class FakeDetector:
    """A fake Detector that finds the only square of each frame. Its first calls raise ``failures``, in order."""

    def __init__(self, failures: list[Exception] | None = None) -> None:
        self.pool = FramePool(1, InputShape.square(squares.SIZE_PX))
        self.failures = failures or []
        self.seen: list[int] = []
        self.superseded = 0
        self.asked: Callable[[], object] = lambda: None
        self.as_task: Callable[[Detections], Detections] = lambda found: found  # adds what a model's task finds
        self.info = MODEL  # the current model; ``known`` is the model that ``connect`` returned last
        self.known: ModelInfo | None = None

    async def connect(self) -> ModelInfo:
        self.known = self.info
        return self.known

    async def model(self, time_left_s: float) -> ModelInfo:
        return self.known or await self.connect()

    def forget_model(self) -> None:
        self.known = None

    async def detect(
        self,
        slot: Slot,
        fitted: Letterbox,
        model: ModelInfo,
        options: DetectOptions,
        *,
        time_left_s: float,
        superseded: int,
    ) -> Answer:
        self.superseded += superseded
        self.asked()
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        number = frame_shown(slot.frame(fitted.input_shape))
        self.seen.append(number)
        x, y = squares.STRIDE_PX * (number % 30), squares.STRIDE_PX * (number // 30)
        corners = np.array([[x, y, x + squares.SIDE_PX, y + squares.SIDE_PX]], np.float32)
        found = Detections(corners, np.ones(1, np.float32), np.zeros(1, np.int32), ("red",))
        found = self.as_task(found)
        return Answer(found, squares.SIZE_PX, squares.SIZE_PX, "fake", 1, Timing(), fitted.input_shape)

    def close(self) -> None:
        self.pool.close()


def new_stream(video: Path, detector: FakeDetector, **fields: Any) -> Stream:
    """Return a stream that starts at the stored bookmark, like a stream in a new process."""
    collector = fields.pop("collector", None)
    spec = StreamSpec(id="lot", source=SourceSpec(uri=str(video), loop=fields.pop("loop", False)), **fields)
    bookmark_file = StreamStore(video.parent / "state").bookmark_file("lot")
    args = StreamArgs(output_dir=video.parent)
    return Stream(
        spec,
        parse_source(str(video), (Path("/"),)),
        detector,
        bookmark_file,
        args,
        AddressGuard(),
        max_pixels=50_000_000,
        collector=collector,
    )


@asynccontextmanager
async def running(stream: Stream) -> AsyncIterator[asyncio.Task[None]]:
    """Run a stream in a task, and stop it at the end."""
    async with asyncio.timeout(30):
        task = asyncio.create_task(stream.run())
        try:
            yield task
        finally:
            stream.stop()
            await task


async def all_events(stream: Stream, after: int = -1) -> list[dict[str, Any]]:
    """Return the events that the stream still holds."""
    events: list[Event] = []
    while (page := await stream.events(after, 0)).events:
        events += page.events
        after = events[-1].event_id
    return [json.loads(event.json) for event in events]
