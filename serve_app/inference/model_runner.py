"""Run one model: its engine, the engine's threads, and its batcher. This module does not import Ray."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from serve_app.config import BatcherArgs, DetectArgs, DetectorArgs
from serve_app.detections import Detections
from serve_app.inference.batcher import Batcher
from serve_app.ipc.frame_pool import InEngineFlag
from serve_app.models import load as model_loading
from serve_app.models.engines import Engine
from serve_app.models.failures import model_errors
from serve_app.models.tasks import to_detections
from serve_app.models.tasks.classify import MAX_CLASSES
from serve_app.models.tasks.tensors import to_tensor
from serve_app.types import DetectOptions, DetectReply, EngineInfo, InputShape, ModelInfo, Pixels, Timing

# An engine counts as hung if a batch takes longer than _HUNG_AFTER_S, and also longer than _HUNG_AFTER_BATCHES times
# the duration of a batch at warm-up.
_HUNG_AFTER_S = 10.0
_HUNG_AFTER_BATCHES = 20
# An engine also counts as hung if it prepares one shape for longer than this. Large models were compiled within a few
# seconds, but another process may use the same cores.
_PREPARED_WITHIN_S = 180.0
_WARM_UPS = 4


@dataclass(frozen=True)
class EngineInput:
    """One frame for the engine."""

    frame: Pixels
    in_engine: InEngineFlag  # set while the engine has the frame
    options: DetectOptions
    wants_tensor: bool = False  # see ``DetectRequest``


class ModelRunner:
    """A model that runs inference and postprocessing in engine threads, so the event loop is not blocked."""

    def __init__(
        self, engine: Engine, args: DetectorArgs, batch_s: float, on_batch: Callable[[list[DetectReply]], None]
    ) -> None:
        """Start the threads and the batcher. ``batch_s`` is the result of ``_warm_up``."""
        self.info = _with_defaults(engine.info, args.detect)  # first, because it may refuse the thresholds
        self._engine = engine
        self._preparation = engine.preparation
        self._on_batch = on_batch
        self._threads = ThreadPoolExecutor(engine.concurrency, "engine")
        self._hung_after_s = max(_HUNG_AFTER_S, _HUNG_AFTER_BATCHES * batch_s)
        batch_size = _batch_size(engine, args)
        self.batcher = Batcher[EngineInput, DetectReply](
            self._infer,
            max_batch_size=batch_size,
            max_queue_size=args.batcher.max_queue_size,
            weights=args.batcher.weights(),
            concurrency=engine.concurrency,
            items_per_s=batch_size * engine.concurrency / batch_s,
        )

    @classmethod
    async def load(
        cls, args: DetectorArgs, *, has_gpu: bool, on_batch: Callable[[list[DetectReply]], None]
    ) -> ModelRunner:
        """Load, check and warm up a model.

        ``on_batch`` is called with the replies of each batch. Raise ModelError on failure.
        """
        engine = await asyncio.to_thread(
            model_loading.load, args.model, has_gpu=has_gpu, max_batch_size=args.batcher.max_batch_size
        )
        with model_errors():  # a batch may run out of memory although the check with one image did not
            batch_s = await asyncio.to_thread(_warm_up, engine, _batch_size(engine, args))
        return cls(engine, args, batch_s, on_batch)

    @property
    def is_hung(self) -> bool:
        """Whether a batch has been in the engine for so long that the engine counts as hung.

        The time in which the engine prepares a shape does not count, because other batches may wait for it.
        """
        in_engine_s = self.batcher.in_engine_s
        if self._preparation is not None:
            if self._preparation.running_s > _PREPARED_WITHIN_S:
                return True
            in_engine_s = min(in_engine_s, self._preparation.ended_s_ago)
        return in_engine_s > self._hung_after_s

    def cost(self, shape: InputShape) -> float:
        """Return the engine time that a frame of this shape takes, as a share of the time of the largest shape.

        The time is proportional to the number of pixels. Raise ValueError if the model does not take this shape.
        """
        if shape not in self.info.shapes:
            known = ", ".join(map(str, self.info.shapes))
            raise ValueError(f"{self.info.name} takes no input of the shape {shape}; its shapes are: {known}")
        return shape.nbytes / self.info.input_shape.nbytes

    def apply_settings(self, detect: DetectArgs, batcher: BatcherArgs) -> None:
        """Set the default thresholds, and the share of the engine that each kind of traffic gets.

        Raise ConfigError, and change nothing, if the model lacks a class that has a threshold.
        """
        self.info = _with_defaults(self._engine.info, detect)
        self.batcher.set_weights(batcher.weights())

    async def drain(self) -> None:
        """Answer all accepted items, then close the model and free its memory."""
        await self.batcher.drain()
        await self.close()
        del self._engine
        await asyncio.to_thread(_collect)

    async def close(self) -> None:
        """Stop the batcher and the threads. Waiting items fail with ReplicaGone."""
        await self.batcher.close()
        self._threads.shutdown(wait=False)

    async def _infer(self, items: list[EngineInput]) -> list[DetectReply]:
        alone = self.batcher.load == 1
        replies = await asyncio.get_running_loop().run_in_executor(self._threads, self._run_engine, items, alone)
        self._on_batch(replies)
        return replies

    def _run_engine(self, items: list[EngineInput], alone: bool) -> list[DetectReply]:
        started_at_s = time.monotonic()
        for item in items:
            item.in_engine[0] = 1
        raw_outputs = self._engine.infer([item.frame for item in items], alone=alone)
        inferred_at_s = time.monotonic()
        replies = []
        for item, raw in zip(items, raw_outputs, strict=True):
            postprocessing_at_s = time.monotonic()
            info = self._engine.info
            tensor = to_tensor(raw, info) if item.wants_tensor else None
            detections = Detections.empty() if item.wants_tensor else to_detections(raw, info, item.options)
            timing = Timing(
                inference_s=inferred_at_s - started_at_s, postprocess_s=time.monotonic() - postprocessing_at_s
            )
            replies.append(DetectReply(detections, timing, tensor=tensor))
            item.in_engine[0] = 0
        return replies


def _collect() -> None:
    """Collect garbage now. Otherwise, a closed engine would take up much memory until Python's next collection.

    Python never collects the objects that Serve froze when the replica started (``RAY_SERVE_FREEZE_GC_ON_STARTUP``),
    so they are unfrozen first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _batch_size(engine: Engine, args: DetectorArgs) -> int:
    return args.batcher.max_batch_size if engine.takes_batches else 1


def _warm_up(engine: Engine, batch_size: int) -> float:
    """Run the engine until it is warm. Return how many seconds a round of parallel batches takes.

    All shapes are run, except rectangles that the engine prepares by need. A round has ``engine.concurrency`` batches
    of the largest shape, which run at the same time.
    """
    frames = [np.zeros(engine.info.input_shape.array, np.uint8)] * batch_size
    engine.infer(frames, alone=True)
    took_s = []
    with ThreadPoolExecutor(engine.concurrency) as threads:
        for _ in range(_WARM_UPS):
            began_at_s = time.monotonic()
            list(threads.map(lambda _: engine.infer(frames, alone=False), range(engine.concurrency)))
            took_s.append(time.monotonic() - began_at_s)
    rectangles = engine.info.rectangles if engine.preparation is None else ()
    for shape in rectangles:  # the largest shape was first, because it may run out of memory
        frame = np.zeros(shape.array, np.uint8)
        engine.infer([frame], alone=True)
        engine.infer([frame] * batch_size, alone=False)
    return min(took_s)  # the first run is slower, and another model may slow down any run


def _with_defaults(engine: EngineInfo, detect: DetectArgs) -> ModelInfo:
    """Return the model with its default thresholds. The version changes with the shapes and the thresholds.

    A model that classifies images by default returns a fixed number of classes, whatever their probabilities are.
    """
    # The version depends on neither the engine nor the precision, because these may differ between kinds of nodes.
    defaults = detect.to_options(engine)
    if engine.task == "classify":
        defaults = replace(defaults, confidence=0.0, class_confidence=(), max_detections=MAX_CLASSES)
    identity = f"{engine.name} {engine.version} {' '.join(map(str, engine.shapes))} {defaults}"
    return ModelInfo(engine, hashlib.sha256(identity.encode()).hexdigest()[:12], defaults)
