"""Compare detections with the ground truth of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.codes.scenes import Box, Scene, Truth
from serve_app.schemas.detect import Detection

# A detection is not a false positive if it has at least this IoU with a partly visible code. The limit is low, because
# such a code has no exact box. The labels are not compared, because such a code may look like another kind of code.
_MIN_IOU_OF_CUT = 0.1


@dataclass(frozen=True)
class Guess:
    """One detection in a response of the service."""

    label: str
    confidence: float
    box: Box

    @classmethod
    def of(cls, found: Detection) -> Guess:
        """Convert a detection of the HTTP API."""
        box = found.bbox
        return cls(found.label, found.confidence, (box.x1, box.y1, box.x2, box.y2))


@dataclass(frozen=True)
class Score:
    """The found and missed codes of an image, and the false positives."""

    found: tuple[tuple[Truth, Guess], ...]
    missed: tuple[Truth, ...]
    false: tuple[Guess, ...]


def score(scene: Scene, guesses: Sequence[Guess], *, least_iou: float = 0.5) -> Score:
    """Match each guess to the code with the same label and the highest IoU, if the IoU is at least ``least_iou``.

    The most confident guesses are matched first, and each code is matched only once.
    """
    left, found, false = list(scene.truths), [], []
    for guess in sorted(guesses, key=lambda guess: -guess.confidence):
        candidates = [truth for truth in left if truth.label == guess.label and iou(truth.box, guess.box) >= least_iou]
        if candidates:
            best = max(candidates, key=lambda truth: iou(truth.box, guess.box))
            left.remove(best)
            found.append((best, guess))
        elif not any(iou(truth.box, guess.box) >= _MIN_IOU_OF_CUT for truth in scene.cut):
            false.append(guess)
    return Score(tuple(found), tuple(left), tuple(false))


def iou(a: Box, b: Box) -> float:
    """Compute the intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
