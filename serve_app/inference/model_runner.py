"""A model at work: its engine, the threads that the engine runs in, and its batcher. This module knows no Ray."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from serve_app.config import BatcherArgs, DetectArgs, DetectorArgs
from serve_app.inference.batcher import Batcher
from serve_app.ipc.frame_pool import InEngineFlag
from serve_app.models import load as model_loading
from serve_app.models.engines import Engine
from serve_app.models.failures import model_errors
from serve_app.models.tasks.detect import to_detections
from serve_app.types import DetectOptions, DetectReply, EngineInfo, ModelInfo, Pixels, Timing

_WEDGED_AFTER_S = 10.0  # in one batch; a slow engine has longer:
_WEDGED_AFTER_BATCHES = 20  # as long as so many took when it was warm
_WARM_UPS = 4


@dataclass(frozen=True)
class EngineInput:
    """One frame for the engine."""

    frame: Pixels
    in_engine: InEngineFlag  # set while the engine has the frame
    options: DetectOptions


class ModelRunner:
    """Infers and postprocesses in engine threads, for which the event loop never waits."""

    def __init__(
        self, engine: Engine, args: DetectorArgs, batch_s: float, on_batch: Callable[[list[DetectReply]], None]
    ) -> None:
        """``batch_s``: what as many batches as run at once take. See ``load``."""
        self._engine = engine
        self._on_batch = on_batch
        self._threads = ThreadPoolExecutor(engine.concurrency, "engine")
        self._wedged_after_s = max(_WEDGED_AFTER_S, _WEDGED_AFTER_BATCHES * batch_s)
        batch_size = _batch_size(engine, args)
        self.batcher = Batcher[EngineInput, DetectReply](
            self._infer,
            max_batch_size=batch_size,
            max_queue_size=args.batcher.max_queue_size,
            weights=args.batcher.weights(),
            concurrency=engine.concurrency,
            items_per_s=batch_size * engine.concurrency / batch_s,
        )
        self.info = _with_defaults(engine.info, args.detect)

    @classmethod
    async def load(
        cls, args: DetectorArgs, *, has_gpu: bool, on_batch: Callable[[list[DetectReply]], None]
    ) -> ModelRunner:
        """Loaded, checked and warm. ``on_batch`` hears of each batch. Raises ModelError."""
        engine = await asyncio.to_thread(
            model_loading.load, args.model, has_gpu=has_gpu, max_batch_size=args.batcher.max_batch_size
        )
        with model_errors():  # a batch takes more memory than the one picture with which it was checked
            batch_s = await asyncio.to_thread(_warm_up, engine, _batch_size(engine, args))
        return cls(engine, args, batch_s, on_batch)

    @property
    def is_wedged(self) -> bool:
        """Whether one batch has been in the engine for longer than any should."""
        return self.batcher.in_engine_s > self._wedged_after_s

    def use(self, detect: DetectArgs, batcher: BatcherArgs) -> None:
        """Other default thresholds, and other shares of the engine, from now on."""
        self.info = _with_defaults(self._engine.info, detect)
        self.batcher.set_weights(batcher.weights())

    async def drain(self) -> None:
        """Until whatever it has accepted is answered; then it is closed, and its memory free."""
        await self.batcher.drain()
        await self.close()
        del self._engine
        await asyncio.to_thread(_collect)

    async def close(self) -> None:
        """Whoever still waits is told to ask elsewhere."""
        await self.batcher.close()
        self._threads.shutdown(wait=False)

    async def _infer(self, items: list[EngineInput]) -> list[DetectReply]:
        alone = self.batcher.load == 1
        replies = await asyncio.get_running_loop().run_in_executor(self._threads, self._run_engine, items, alone)
        self._on_batch(replies)
        return replies

    def _run_engine(self, items: list[EngineInput], alone: bool) -> list[DetectReply]:
        started_s = time.monotonic()
        for item in items:
            item.in_engine[0] = 1
        raw_outputs = self._engine.infer([item.frame for item in items], alone=alone)
        inferred_s = time.monotonic()
        replies = []
        for item, raw in zip(items, raw_outputs, strict=True):
            begun_s = time.monotonic()
            detections = to_detections(raw, item.options, end_to_end=self.info.engine.end_to_end)
            timing = Timing(inference_s=inferred_s - started_s, postprocess_s=time.monotonic() - begun_s)
            replies.append(DetectReply(detections, timing))
            item.in_engine[0] = 0
        return replies


def _collect() -> None:
    """An engine is too large to wait until Python looks by itself; and Serve has it never look at what was there when
    the replica had started (``RAY_SERVE_FREEZE_GC_ON_STARTUP``)."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _batch_size(engine: Engine, args: DetectorArgs) -> int:
    return args.batcher.max_batch_size if engine.takes_batches else 1


def _warm_up(engine: Engine, batch_size: int) -> float:
    """Returns how many seconds as many batches as run at once then take."""
    frames = [np.zeros(engine.info.input_shape.array, np.uint8)] * batch_size
    engine.infer(frames, alone=True)
    took_s = []
    with ThreadPoolExecutor(engine.concurrency) as threads:
        for _ in range(_WARM_UPS):
            began_s = time.monotonic()
            list(threads.map(lambda _: engine.infer(frames, alone=False), range(engine.concurrency)))
            took_s.append(time.monotonic() - began_s)
    return min(took_s)  # the first one was cold, and beside others another model may be at work


def _with_defaults(engine: EngineInfo, detect: DetectArgs) -> ModelInfo:
    """Return the model with its default thresholds, under a version that says whether a frame was made for it."""
    # Not the engine, nor the precision: on nodes of another kind a replica may have chosen another one.
    defaults = DetectOptions(**detect.model_dump())
    identity = f"{engine.name} {engine.version} {engine.input_shape} {defaults}"
    return ModelInfo(engine, hashlib.sha256(identity.encode()).hexdigest()[:12], defaults)
