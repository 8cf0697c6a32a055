"""Answers against the truth of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.codes.scenes import Box, Scene, Truth
from serve_app.schemas.detect import Detection

_LEAST_IOU_OF_CUT = 0.1  # half a code may look like another kind, and its box may end anywhere in it


@dataclass(frozen=True)
class Guess:
    """One detection, as the service answers it."""

    label: str
    confidence: float
    box: Box

    @classmethod
    def of(cls, found: Detection) -> Guess:
        """Return one of the detections in an answer."""
        box = found.bbox
        return cls(found.label, found.confidence, (box.x1, box.y1, box.x2, box.y2))


@dataclass(frozen=True)
class Score:
    """Each code of a picture is found or missed; a guess that found none is a false positive."""

    found: tuple[tuple[Truth, Guess], ...]
    missed: tuple[Truth, ...]
    false: tuple[Guess, ...]


def score(scene: Scene, guesses: Sequence[Guess], *, least_iou: float = 0.5) -> Score:
    """The most confident guess chooses first: the code of its label that it overlaps most, by ``least_iou`` or more."""
    left, found, false = list(scene.truths), [], []
    for guess in sorted(guesses, key=lambda guess: -guess.confidence):
        candidates = [truth for truth in left if truth.label == guess.label and iou(truth.box, guess.box) >= least_iou]
        if candidates:
            best = max(candidates, key=lambda truth: iou(truth.box, guess.box))
            left.remove(best)
            found.append((best, guess))
        elif not any(iou(truth.box, guess.box) >= _LEAST_IOU_OF_CUT for truth in scene.cut):
            false.append(guess)
    return Score(tuple(found), tuple(left), tuple(false))


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
