"""The state and the counters of a stream, with a fake clock."""

from __future__ import annotations

import itertools
import threading

import pytest

from serve_app.streams.progress import Progress, Rate
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def progress(clock: Clock) -> Progress:
    """Return the progress of a stream whose source is connected and declares 10 frames per second."""
    progress = Progress(clock)
    progress.source_opened(10)
    return progress


def frame(progress: Progress) -> None:
    progress.read_started()
    progress.read_ended()
    progress.frame_captured()


def result(progress: Progress) -> None:
    progress.detection_started()
    progress.detection_succeeded()


def test_a_stream_starts_and_runs(progress: Progress) -> None:
    assert progress.health() == ("starting", "")
    frame(progress)
    assert progress.health() == ("running", "")


def test_a_source_that_is_connected_and_silent_has_stalled(progress: Progress, clock: Clock) -> None:
    frame(progress)
    progress.read_started()
    clock.now_s += 2.9
    assert progress.health()[0] == "running"
    clock.now_s += 0.2
    assert progress.health() == ("stalled", "no frame for 3 s")
    frame(progress)
    assert progress.health() == ("running", "")


def test_a_slow_source_has_more_time(progress: Progress, clock: Clock) -> None:
    progress.source_opened(0.1)
    frame(progress)
    progress.read_started()
    clock.now_s += 29
    assert progress.health()[0] == "running"
    clock.now_s += 2
    assert progress.health()[0] == "stalled"


def test_a_source_that_waits_for_the_detector_has_not_stalled(progress: Progress, clock: Clock) -> None:
    frame(progress)  # the capture thread then waits until this frame is taken
    clock.now_s += 60
    assert progress.health() == ("running", "")


def test_a_detector_that_does_not_answer_blocks_the_stream(progress: Progress, clock: Clock) -> None:
    frame(progress)
    progress.detection_started()
    clock.now_s += 1.9
    assert progress.health() == ("running", "")
    clock.now_s += 0.2
    assert progress.health() == ("blocked", "the detector does not answer")
    progress.detection_refused("the service is at its limit")
    assert progress.health() == ("blocked", "the service is at its limit")
    progress.detection_succeeded()
    assert progress.health() == ("running", "")


def test_a_detector_that_processes_half_of_the_frames_blocks_the_stream(progress: Progress, clock: Clock) -> None:
    for number in range(100):
        clock.now_s += 0.1
        frame(progress)
        if number % 2:
            progress.drop("newer_frame")
        else:
            result(progress)
    state, detail = progress.health()
    assert (state, detail[:33]) == ("blocked", "the detector processes 5.0 of 10.")


def test_superseded_frames_are_reported_once(progress: Progress) -> None:
    for reason in ("newer_frame", "max_fps", "newer_frame", "no_motion", "stopped"):
        progress.drop(reason)
    assert (progress.take_superseded(), progress.take_superseded()) == (2, 0)
    progress.drop("newer_frame")
    assert progress.take_superseded() == 1


@pytest.mark.parametrize("reason", ["max_fps", "no_motion"])
def test_frames_that_are_dropped_on_purpose_do_not_block_the_stream(
    progress: Progress, clock: Clock, reason: str
) -> None:
    for number in range(100):
        clock.now_s += 0.1
        frame(progress)
        if number % 5:
            progress.drop(reason)
        else:
            result(progress)
    assert progress.health() == ("running", "")
    assert progress.dropped_rate.per_second() == pytest.approx(8, abs=0.3)


def test_a_source_failure_takes_precedence_over_a_blocked_detector(progress: Progress, clock: Clock) -> None:
    frame(progress)
    progress.detection_started()
    progress.set_source_state("reconnecting", "cam: Connection refused")
    clock.now_s += 60
    assert progress.health() == ("reconnecting", "cam: Connection refused")


def test_a_failed_stream_is_not_completed(progress: Progress) -> None:
    progress.set_source_state("failed", "cam cannot be read as video")
    progress.complete()
    assert progress.health() == ("failed", "cam cannot be read as video")


def test_a_stream_whose_frames_are_all_processed_is_completed(progress: Progress) -> None:
    frame(progress)
    progress.complete()
    assert progress.health() == ("completed", "")


def test_a_lost_frame_is_counted(progress: Progress, clock: Clock) -> None:
    frame(progress)
    progress.detection_started()
    progress.detection_failed("error", "the detector failed: RuntimeError")
    clock.now_s += 60
    assert progress.health() == ("running", "the detector failed: RuntimeError")
    assert (progress.processed, progress.dropped) == (0, {"error": 1})


def test_drops_ahead_of_the_detection_loop_count_once_it_reaches_them(progress: Progress) -> None:
    for frame_id in range(6):
        progress.frame_captured()
        if frame_id in {1, 2, 4, 5}:
            progress.drop("max_fps", frame_id)
    assert progress.dropped_up_to(0) == {}
    assert progress.dropped_up_to(3) == {"max_fps": 2}
    assert progress.dropped_up_to(5) == progress.dropped == {"max_fps": 4}


def test_a_rate_covers_the_last_seconds() -> None:
    clock = Clock(100.0)
    rate = Rate(clock)
    for _ in range(10):
        clock.now_s += 1
        for _ in range(4):
            rate.tick()
    assert rate.per_second() == 4.0
    clock.now_s += 90
    assert rate.per_second() == 0.0


def test_both_threads_may_drop_frames_at_once() -> None:
    progress = Progress()
    over = threading.Event()

    def capture() -> None:
        for frame_id in itertools.count():
            if over.is_set():
                break
            progress.drop("newer_frame", frame_id)

    thread = threading.Thread(target=capture)
    thread.start()
    try:
        for _ in range(2000):
            progress.drop("expired")
            assert progress.dropped_up_to(-1)["expired"]
    finally:
        over.set()
        thread.join()
    assert progress.dropped["expired"] == 2000
