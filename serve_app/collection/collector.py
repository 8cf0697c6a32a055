"""The collector, with which a Preprocessor or a stream's process keeps images that are worth a look."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from serve_app.collect_args import CollectArgs
from serve_app.collection.blur import blur
from serve_app.collection.dataset import Dataset, dataset_name
from serve_app.collection.folder import CollectionFolder
from serve_app.collection.selection import REASONS, Reason, Selection, are_all_known, classes_to_blur
from serve_app.images.decode import decode
from serve_app.images.drawing import encode_jpeg
from serve_app.types import Answer, DetectOptions, ModelInfo, Pixels

logger = logging.getLogger(__name__)

DROPS = ("rate_limit", "quota", "queue_full", "cannot_blur", "too_small", "unwritable", "error")
_WITHOUT_KEY = "http"  # the source of an image that was sent without an API key
_MAX_WAITING = 4  # few images, because each may hold its pixels in memory
_MIN_SIDE_PX = 10  # Ultralytics ignores smaller images when it trains
_SWEEP_INTERVAL_S = 600.0  # how often images that are too old are deleted


@dataclass(frozen=True)
class _Candidate:
    """An image that is worth a look."""

    picture: bytes | Pixels
    answer: Answer
    model: ModelInfo
    source: str
    reason: Reason
    new: frozenset[int]  # the ids of the classes that were never seen before


class Collector:
    """Keeps images in a folder that processes share. Its thread decodes, blurs and writes, so ``offer`` never blocks.

    Call ``offer`` from one thread only. If the disk cannot be written, images are counted as dropped.
    """

    def __init__(
        self,
        args: CollectArgs,
        *,
        max_pixels: int,
        pause_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep images in ``args.folder``, which must be set.

        ``max_pixels`` limits the size of encoded images. ``pause_s`` is the least time between two images. A stream
        needs it, because its consecutive frames look alike.
        """
        folder = args.collection_folder()
        if folder is None:
            raise ValueError("a collector needs collect.folder")
        self.kept: dict[str, int] = dict.fromkeys(REASONS, 0)
        self.drops: dict[str, int] = dict.fromkeys(DROPS, 0)
        self.selection = Selection(args)
        self._path = folder
        self._folder = CollectionFolder(args, folder)
        self._blurred = args.blurred_labels()
        self._excluded = args.excluded_names()
        self._max_pixels = max_pixels
        self._pause_s = pause_s
        self._clock = clock
        self._due_at_s = clock()  # no image is kept before this time
        self._models_without_label: set[str] = set()  # the models that do not know one of the labels to blur
        self._is_failing = False
        self._count_lock = threading.Lock()
        self._waiting: queue.Queue[_Candidate | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="collect", daemon=True)
        self._thread.start()

    def offer(
        self, picture: bytes | Pixels, answer: Answer, model: ModelInfo, options: DetectOptions, source: str
    ) -> None:
        """Keep an image if it is worth a look. The caller must not change the pixels afterwards.

        ``source`` is the name of the API key, or the id of the stream. An image that was classified as a whole has no
        boxes with which to train, so it is not kept.
        """
        if source in self._excluded or answer.detections.classes is not None:
            return
        dataset = dataset_name(model.name, model.labels)
        detections = answer.detections
        if (reason := self.selection.reason(detections, dataset, source)) is None:
            return
        now_s = self._clock()
        if now_s < self._due_at_s:
            self._drop("rate_limit")
        elif min(answer.width_px, answer.height_px) < _MIN_SIDE_PX:
            self._drop("too_small")
        elif not self._can_blur(answer, model, options):
            self._drop("cannot_blur")
        else:
            new = self.selection.new_classes(detections, dataset)
            try:
                self._waiting.put_nowait(_Candidate(picture, answer, model, source, reason, new))
            except queue.Full:
                self._drop("queue_full")
                return
            self.selection.saw(new, dataset)  # so that the next image of this class is not kept for the same reason
            self._due_at_s = max(self._due_at_s, now_s + self._pause_s)

    def close(self, timeout_s: float) -> None:
        """Keep the waiting images, and end the thread. This blocks for up to twice ``timeout_s``."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)

    def _can_blur(self, answer: Answer, model: ModelInfo, options: DetectOptions) -> bool:
        class_ids = classes_to_blur(model.labels, self._blurred)
        if class_ids is None:
            if model.name not in self._models_without_label:
                logger.error(
                    "collect.blur: the model %s does not know all of these labels, so its images are not kept; "
                    "correct the labels, or use GET /models to see the model's labels",
                    model.name,
                )
                self._models_without_label.add(model.name)
            return False
        return are_all_known(class_ids, answer, model, options)

    def _run(self) -> None:
        next_sweep_at_s = time.monotonic()
        while True:
            if time.monotonic() >= next_sweep_at_s:
                next_sweep_at_s = time.monotonic() + _SWEEP_INTERVAL_S
                self._try(self._folder.sweep)
            try:
                candidate = self._waiting.get(timeout=max(next_sweep_at_s - time.monotonic(), 0))
            except queue.Empty:
                continue
            if candidate is None:
                return
            problem = self._try(lambda one=candidate: self._keep(one))  # type: ignore[misc]
            if problem is not None:
                self._drop(problem)
                self.selection.forget(candidate.new, dataset_name(candidate.model.name, candidate.model.labels))
            del candidate  # it would hold its pixels in memory until the next image

    def _try(self, step: Callable[[], str | None]) -> str | None:
        """Return the result of a step, or the reason for the drop if the step fails."""
        try:
            problem = step()
        except OSError as exc:
            if not self._is_failing:
                logger.error("collect.folder: images cannot be kept: %s", exc.strerror or type(exc).__name__)
            self._is_failing = True
            return "unwritable"
        except Exception:  # a bug must not end the thread
            logger.exception("an image could not be kept")
            return "error"
        self._is_failing = False
        return problem

    def _keep(self, candidate: _Candidate) -> str | None:
        """Write an image that is still worth a look. Return the reason if it is dropped."""
        dataset = Dataset(self._path, candidate.model)
        seen = dataset.read_seen()
        self.selection.saw(seen, dataset.name)
        answer, reason, new = candidate.answer, candidate.reason, candidate.new - seen
        if reason == "new_class" and not new:  # another process has kept an image of this class
            other_reason = self.selection.reason(answer.detections, dataset.name, candidate.source)
            if other_reason is None:
                return None
            reason = other_reason
        if wait_s := self._folder.credit_wait_s():
            self._due_at_s = max(self._due_at_s, self._clock() + wait_s)
            return "rate_limit"
        picture = candidate.picture
        pixels = decode(picture, self._max_pixels) if isinstance(picture, bytes) else picture
        if class_ids := classes_to_blur(candidate.model.labels, self._blurred):
            found = answer.detections
            pixels = blur(pixels, found.xyxy[np.isin(found.class_id, list(class_ids))])
        refusal = self._folder.keep(dataset, encode_jpeg(pixels), answer, reason, candidate.source or _WITHOUT_KEY, new)
        if refusal is None:
            self.kept[reason] += 1
        return refusal

    def _drop(self, reason: str) -> None:
        with self._count_lock:  # both threads count drops
            self.drops[reason] += 1
