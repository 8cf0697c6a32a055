"""The labels of a model's classes."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=64)  # every image and frame with thresholds or classes of its own needs them
def ids_by_name(labels: tuple[str, ...]) -> dict[str | int, list[int]]:
    """Return the ids of the classes by each way to name them: the label, the id, and the id written as a string.

    A label that several classes share has all of their ids. A label of digits comes before an id. Callers must not
    change the result.
    """
    known: dict[str | int, list[int]] = {}
    for class_id, label in enumerate(labels):
        known.setdefault(label, []).append(class_id)
    for class_id in range(len(labels)):
        known[class_id] = [class_id]
        known.setdefault(str(class_id), [class_id])
    return known
