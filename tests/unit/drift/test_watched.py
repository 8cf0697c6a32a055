"""Tests of the comparison of a source with its reference."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.drift.bins import FEATURES
from serve_app.drift.watched import Alarm, Figure, Together, Watched
from tests.support.drift import ARGS, images


def watched(*, by_hour: bool = False, steady: int = 200) -> Watched:
    """Return a source with a complete reference, and with ``steady`` further images."""
    made = Watched("v1", ARGS, by_hour=by_hour)
    feed(made, ARGS.reference_images)
    feed(made, steady)
    return made


def feed(
    one: Watched, count: int, *, hour: int = 12, brightness: float = 120, classes: tuple[int, ...] = (0, 1)
) -> None:
    for number in range(count // 10):
        one.add(hour, images(10 + (number % 2) * 2, brightness=brightness, classes=classes), float(number))


def test_a_source_learns_then_collects_then_is_steady() -> None:
    one = Watched("v1", ARGS, by_hour=False)
    feed(one, 100)
    assert (one.state, one.figures) == ("learning", {})
    assert one.detail.startswith("the reference needs 290 more images")
    feed(one, 300)
    feed(one, 50)
    assert (one.state, one.detail) == ("collecting", f"the window has {one.window.images} of 100 images")
    feed(one, 100)
    assert (one.state, one.detail) == ("steady", "")
    assert one.figures.keys() == {feature.name for feature in FEATURES}


@pytest.mark.parametrize(
    ("shift", "feature"),
    [({"brightness": 30}, "brightness"), ({"classes": (0, 7)}, "classes"), ({"classes": ()}, "detections")],
)
def test_a_shift_is_named(shift: dict[str, object], feature: str) -> None:
    one = watched()
    feed(one, 200, **shift)  # type: ignore[arg-type]
    assert one.state == "drifting"
    assert one.alarm.named() == [feature]


def test_a_drift_ends_when_images_are_as_before() -> None:
    one = watched()
    feed(one, 200, brightness=30)
    feed(one, 300)
    assert (one.state, one.alarm.since_at_s) == ("steady", None)


def test_images_of_a_new_hour_are_learned_and_are_no_drift() -> None:
    one = watched(by_hour=True)
    feed(one, 200, hour=0, brightness=30)
    assert one.reference.learns(0)
    assert "between 0:00 and 1:00 UTC" in one.detail
    feed(one, 400, hour=0, brightness=30)
    feed(one, 200, hour=12)
    assert one.state == "steady"
    feed(one, 200, hour=12, brightness=30)
    assert one.alarm.named() == ["brightness"]


def test_too_few_detections_give_a_reason_instead_of_a_number() -> None:
    one = watched()
    feed(one, 200, classes=())
    assert one.figures["area"] == Figure(None, None, 0, "the window has 0 detections, and 20 are needed")


def test_a_single_comparison_above_the_limit_is_no_drift() -> None:
    alarm = Alarm()
    above, below = {"area": Figure(1.0, 0.5, 100)}, {"area": Figure(0.4, 0.5, 100)}
    assert [alarm.note(figures, 0) for figures in (above, below, above, below)] == [None] * 4
    assert [alarm.note(figures, 7) for figures in (above, above)] == [None, "began"]
    assert alarm.since_at_s == 7


def test_a_drift_lasts_until_it_is_far_below_the_limit() -> None:
    alarm = Alarm()
    changes = [alarm.note({"area": Figure(psi, 0.5, 100)}, 0) for psi in (1, 1, 0.4, 0.3, 0.2)]
    assert changes == [None, "began", None, None, "ended"]


def test_a_second_feature_changes_the_drift() -> None:
    alarm = Alarm()
    for _ in range(2):
        alarm.note({"area": Figure(1, 0.5, 100)}, 0)
    both = {"area": Figure(1, 0.5, 100), "size": Figure(3, 0.5, 100)}
    assert [alarm.note(both, 0) for _ in range(2)] == [None, "changed"]
    assert alarm.named() == ["size", "area"]


def test_a_source_is_the_same_after_a_restart() -> None:
    one = watched(by_hour=True)
    feed(one, 100, brightness=30)
    hours = {hour: one.reference.pack_hour(hour) for hour in range(24)}
    restored = Watched.restore(one.fields(), one.window.pack(), hours, ARGS)
    assert (restored.state, restored.fields()) == (one.state, one.fields())
    assert restored.figures.keys() == one.figures.keys()


def test_a_changed_reference_starts_a_new_window() -> None:
    one = watched()
    feed(one, 200, brightness=30)
    from serve_app.drift.reference import Reference

    one.set_reference(Reference.of_blocks([(12, images(200, brightness=30))], window_images=100))
    feed(one, 200, brightness=30)
    assert one.state == "steady"


def test_all_sources_together_do_not_drift_when_one_of_them_sends_more() -> None:
    bright, dark = watched(), Watched("v1", ARGS, by_hour=False)
    feed(dark, ARGS.reference_images, brightness=40)
    feed(dark, 200, brightness=40)
    together = Together()
    for _ in range(3):
        assert together.compare([bright, dark], ARGS, 0) is None
    for _ in range(10):
        dark.add(12, images(200, brightness=40), 0)
        assert together.compare([bright, dark], ARGS, 0) is None
    assert together.sources == 2
    feed(bright, 200, classes=(0, 7))
    feed(dark, 200, brightness=40, classes=(0, 7))
    assert [together.compare([bright, dark], ARGS, 5) for _ in range(2)] == [None, "began"]
    assert together.alarm.named() == ["classes"]


def test_the_memory_of_256_streams_is_bounded() -> None:
    """A stream takes the most while all hours learn, with as many blocks as they may have."""
    one = Watched("v1", ARGS, by_hour=True)
    for hour in range(24):
        for _ in range(ARGS.reference_images // 50 - 1):
            one.add(hour, images(50), 0)
    reference, window = one.reference, one.window
    arrays: list[np.ndarray] = [reference._counts, *(learning.blocks for learning in reference._learning.values())]
    arrays += [part.counts for part in window._parts]
    assert len(reference._learning) == 24
    most = sum(array.nbytes for array in arrays) + 24 * (8 - 4) * arrays[0].shape[1] * 2  # at most 8 blocks an hour
    assert 256 * (most + 9 * arrays[0].shape[1] * np.uint32().nbytes) < 64 * 2**20
