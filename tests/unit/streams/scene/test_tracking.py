from __future__ import annotations

import sys

import numpy as np
import pytest

from serve_app.detections import Detections
from serve_app.errors import StartError
from serve_app.streams.scene.tracking import Tracker

FPS = 30.0
SIZE_PX = np.array([60.0, 120.0])


def found(*centres: tuple[float, float] | None, confidence: float = 0.9) -> Detections:
    """Return boxes of equal size around the given centres. None stands for a hidden object and gives no box."""
    at = np.array([centre for centre in centres if centre is not None], np.float32).reshape(-1, 2)
    boxes = np.concatenate([at - SIZE_PX / 2, at + SIZE_PX / 2], axis=1).astype(np.float32)
    return Detections(boxes, np.full(len(at), confidence, np.float32), np.zeros(len(at), np.int32))


def test_an_object_keeps_its_id_from_its_second_frame_on() -> None:
    tracker = Tracker(FPS)
    ids = [tracker.update(found((100 + 5 * i, 300))).tolist() for i in range(50)]
    assert ids == [[-1]] + [[1]] * 49


def test_ids_are_in_the_order_of_the_detections() -> None:
    rng = np.random.default_rng(0)
    centres = [(200.0 + 150 * i, 300.0) for i in range(8)]
    tracker = Tracker(FPS)
    tracker.update(found(*centres))
    expected = tracker.update(found(*centres))
    assert sorted(expected) == list(range(1, 9))
    for i in range(20):
        order = rng.permutation(8)
        centres = [(x + 2, y) for x, y in centres]
        jumping = (200.0 + 150 * i, 900.0)  # an object that moves too far to be tracked
        detections = found(*(centres[k] for k in order), jumping)
        assert tracker.update(detections).tolist() == [*expected[order], -1]


@pytest.mark.parametrize("seed", range(5))
def test_two_objects_that_cross_each_others_path_keep_their_ids(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tracker = Tracker(FPS)
    for i in range(100):
        jitter = rng.normal(0, 1, 4)
        one = (100 + 8 * i + jitter[0], 100 + 4 * i + jitter[1])
        other = (900 - 8 * i + jitter[2], 100 + 4 * i + jitter[3])  # the two objects meet in frame 50
        ids = tracker.update(found(one, other)).tolist()
        assert ids == ([-1, -1] if i == 0 else [1, 2])


@pytest.mark.parametrize(("hidden_frames", "id_after"), [(1, 1), (10, 1), (25, 1), (60, 2)])
def test_an_object_that_is_hidden_for_less_than_a_second_keeps_its_id(hidden_frames: int, id_after: int) -> None:
    tracker = Tracker(FPS)
    for i in range(100):
        is_hidden = 20 <= i < 20 + hidden_frames
        ids = tracker.update(found(None if is_hidden else (100 + 5 * i, 300))).tolist()
        assert len(ids) == (not is_hidden)
    assert ids == [id_after]


@pytest.mark.parametrize("has_capture_times", [True, False])
def test_an_object_keeps_its_id_despite_dropped_frames_if_capture_times_are_given(has_capture_times: bool) -> None:
    rng = np.random.default_rng(0)
    tracker = Tracker(FPS)
    for i in range(300):
        if rng.random() > 0.6:
            tracker.update(found((100 + 10 * i, 300)), i / FPS if has_capture_times else None)
    assert (tracker.next_id == 2) is has_capture_times  # without capture times, the track is lost repeatedly


def test_a_second_without_frames_ends_a_track() -> None:
    tracker = Tracker(FPS)
    ids = [tracker.update(found((100, 300)), at_s).tolist() for at_s in (5.0, 5.1, 6.0, 7.1, 7.2)]
    assert ids == [[-1], [1], [1], [-1], [2]]


def test_a_clock_that_is_set_back_ends_no_track() -> None:
    tracker = Tracker(FPS)
    ids = [tracker.update(found((100, 300)), at_s).tolist() for at_s in (500.0, 500.1, 10.0, 10.0, 10.1)]
    assert ids == [[-1], [1], [1], [1], [1]]


@pytest.mark.parametrize("fps", [0.2, 1, 5, 30, 120])
def test_a_track_survives_one_missed_detection_at_any_frame_rate(fps: float) -> None:
    tracker = Tracker(fps)
    for i in range(12):
        ids = tracker.update(found(None if i == 6 else (100, 300)), i / fps).tolist()
    assert ids == [1]


@pytest.mark.parametrize("confidence", [0.01, 0.3, 0.5, 0.65])
def test_every_detection_above_the_threshold_starts_and_continues_a_track(confidence: float) -> None:
    tracker = Tracker(FPS)
    ids = [tracker.update(found((100 + i, 300), confidence=confidence)).tolist() for i in range(10)]
    assert ids == [[-1]] + [[1]] * 9


def test_ids_continue_from_the_first_id_and_are_never_reused() -> None:
    rng = np.random.default_rng(1)
    tracker = Tracker(FPS, first_id=700)
    assert tracker.next_id == 700
    last_seen: dict[int, int] = {}
    newest = 699
    for i in range(400):
        shown = [(150.0 * k, 300.0) for k in range(10) if rng.random() < (0.9 if i // 50 % 2 else 0.02)]
        ids = [int(track_id) for track_id in tracker.update(found(*shown)) if track_id >= 0]
        assert len(set(ids)) == len(ids)
        fresh = sorted(set(ids) - set(last_seen))
        assert fresh == list(range(newest + 1, newest + 1 + len(fresh)))
        newest += len(fresh)
        assert all(i - last_seen.get(track_id, i) <= FPS + 1 for track_id in ids)
        last_seen |= dict.fromkeys(ids, i)
        assert tracker.next_id == newest + 1
    assert newest > 720  # new objects kept appearing


def test_a_frame_without_detections_has_no_ids() -> None:
    tracker = Tracker(FPS)
    for detections in (Detections.empty(), found((100, 300)), Detections.empty()):
        ids = tracker.update(detections)
        assert ids.shape == (len(detections),)
        assert ids.dtype == np.int64


def test_three_hundred_objects_are_tracked_and_a_box_without_area_is_not() -> None:
    grid = [(100.0 * (k % 20), 150.0 * (k // 20)) for k in range(299)]
    tracker = Tracker(FPS)
    for i in range(5):
        boxes = found(*((x + 2 * i, y) for x, y in grid), (5000, 300))
        boxes.xyxy[299, 0] = boxes.xyxy[299, 2]
        ids = tracker.update(boxes)
    assert sorted(ids[:299]) == list(range(1, 300))
    assert ids[299] == -1


def test_the_error_names_the_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(StartError, match=r"pip install 'sightline\[tracking\]'"):
        Tracker(FPS)
