"""Decide which images are worth a look, and whether the objects to blur are known in them."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Literal

from serve_app.collect_args import CollectArgs
from serve_app.detections import Detections
from serve_app.types import Answer, DetectOptions, ModelInfo

Reason = Literal["new_class", "uncertain", "drifted"]
REASONS: tuple[Reason, ...] = ("new_class", "uncertain", "drifted")  # the first that applies to an image counts


class Selection:
    """Gives the reason for which an image is worth a look.

    The selection remembers which classes it has seen. Call ``saw`` and ``forget`` from any thread.
    """

    def __init__(self, args: CollectArgs) -> None:
        self._from, self._below = args.uncertain_from, args.uncertain_below
        self._seen: dict[str, set[int]] = {}  # class ids by dataset
        self.drifting: frozenset[str] = frozenset()  # the sources whose images differ from the reference now

    def reason(self, detections: Detections, dataset: str, source: str) -> Reason | None:
        """Return why an image is worth a look, or None if it is not."""
        if self.new_classes(detections, dataset):
            return "new_class"
        confidence = detections.confidence
        if bool(((confidence >= self._from) & (confidence < self._below)).any()):
            return "uncertain"
        return "drifted" if source in self.drifting else None

    def new_classes(self, detections: Detections, dataset: str) -> frozenset[int]:
        """Return the ids of the classes in an image that were never seen before."""
        return frozenset(detections.class_id.tolist()).difference(self._seen.get(dataset, ()))

    def saw(self, class_ids: Collection[int], dataset: str) -> None:
        """Remember that classes were seen."""
        self._seen.setdefault(dataset, set()).update(class_ids)

    def forget(self, class_ids: Collection[int], dataset: str) -> None:
        """Treat classes as never seen, because the image that showed them could not be kept."""
        self._seen.setdefault(dataset, set()).difference_update(class_ids)


@lru_cache(maxsize=64)
def classes_to_blur(model_labels: tuple[str, ...], blurred: frozenset[str]) -> frozenset[int] | None:
    """Return the ids of the classes to blur, or None if the model does not know one of the labels."""
    if not blurred <= set(model_labels):
        return None
    return frozenset(class_id for class_id, label in enumerate(model_labels) if label in blurred)


def are_all_known(class_ids: frozenset[int], answer: Answer, model: ModelInfo, options: DetectOptions) -> bool:
    """Return whether an answer has all objects of these classes that the model finds with its default thresholds.

    An answer may lack some of them if its request asked for other classes, for a higher confidence, for a lower IoU,
    for suppression between classes (also by classes for which it asked for a lower confidence), or for too few
    detections. Such an image cannot be blurred reliably.
    """
    usual = model.defaults
    others = range(len(model.labels)) if options.agnostic_nms else ()  # with a lower threshold, these could suppress
    return not class_ids or (
        (options.class_ids is None or class_ids <= set(options.class_ids))
        and all(options.threshold_of(each) <= usual.threshold_of(each) for each in class_ids)
        and all(options.threshold_of(each) >= usual.threshold_of(each) for each in others if each not in class_ids)
        and options.iou >= usual.iou
        and (usual.agnostic_nms or not options.agnostic_nms)
        and len(answer.detections) < options.max_detections
    )
