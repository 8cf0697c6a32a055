"""Tests of when another class counts as the class of a stream's frames."""

from __future__ import annotations

import numpy as np

from serve_app.detections import Ranking
from serve_app.schemas.streams import LabelChange
from serve_app.streams.scene.top_class import TopClass
from serve_app.types import Frame, Position


def show(top: TopClass, at_s: float, *labels: str) -> LabelChange | None:
    """Show a frame with these classes, the most probable first."""
    n = len(labels)
    frame = Frame(round(at_s * 10), 100 + at_s, at_s, Position(0), lambda: np.zeros((1, 1, 3), np.uint8))
    return top.update(Ranking(np.arange(n, dtype=np.int32), np.full(n, 0.7, np.float32), labels), frame)


def test_a_class_must_stay_before_it_counts() -> None:
    top = TopClass(2.0, "open")
    assert [show(top, tenth / 10, "shut", "open") for tenth in range(20)] == [None] * 20
    change = show(top, 2.0, "shut", "open")
    assert change == LabelChange(frame_id=20, captured_at_s=102.0, label="shut", previous="open", confidence=0.7)
    assert top.label == "shut"
    assert show(top, 2.1, "shut") is None


def test_a_class_that_does_not_stay_has_no_effect() -> None:
    top = TopClass(2.0, "open")
    for tenth in range(100):
        assert show(top, tenth / 10, "open" if tenth % 15 == 0 else "shut") is None
    assert top.label == "open"


def test_changes_between_rivals_start_the_time_again() -> None:
    top = TopClass(2.0, "open")
    shown = [show(top, tenth / 10, "shut" if tenth < 15 else "broken") for tenth in range(36)]
    assert [number for number, change in enumerate(shown) if change] == [35]


def test_a_frame_without_a_class_above_the_threshold_has_no_effect() -> None:
    top = TopClass(2.0, "open")
    assert show(top, 0.0, "shut") is None
    assert show(top, 1.0) is None
    assert show(top, 2.0, "shut") is not None


def test_the_first_class_of_a_stream_has_no_previous_one() -> None:
    top = TopClass(2.0, None)
    assert show(top, 0.0, "open") is None
    change = show(top, 2.5, "open")
    assert change is not None
    assert change.previous is None
