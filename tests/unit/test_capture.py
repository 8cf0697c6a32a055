from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.frames import FramePool
from serve_app.streams.capture import Capture, Policy, Progress, Rate, _pause_s
from serve_app.streams.source import parse_source
from tests import squares
from tests.videos import save_video

FRAMES = 12


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[FramePool]:
    folder = tmp_path / "pool"
    folder.mkdir()
    pool = FramePool(3, squares.SIZE_PX, folder)
    yield pool
    pool.close()


def capture_of(path: Path, pool: FramePool, policy: Policy, *, loop: bool = False) -> tuple[Capture, Progress]:
    progress = Progress()
    source = parse_source(str(path), (path.parent,))
    capture = Capture(source, policy=policy, loop=loop, take_slot=pool.take, progress=progress)
    capture.start()
    return capture, progress


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return save_video(tmp_path / "a.avi", frames=FRAMES, fps=200)


def test_who_waits_gets_every_frame_with_three_slots(video: Path, pool: FramePool) -> None:
    capture, progress = capture_of(video, pool, "wait")
    seen = []
    while (captured := capture.take()) is not None:
        assert captured.slot.pixels.any()
        seen.append(captured.frame_id)
        captured.slot.give_back()
    assert seen == list(range(FRAMES))
    assert (progress.state, progress.captured, progress.dropped) == ("running", FRAMES, {})
    assert pool.leased == 0


def test_who_is_slow_gets_the_newest_frame_and_the_rest_is_counted(video: Path, pool: FramePool) -> None:
    capture, progress = capture_of(video, pool, "drop_oldest")
    capture._thread.join()  # nobody takes while the whole file goes by
    (last,) = iter(capture.take, None)
    assert last.frame_id == FRAMES - 1
    last.slot.give_back()
    assert (progress.captured, progress.dropped) == (FRAMES, {"newer_frame": FRAMES - 1})
    assert pool.leased == 0


def test_a_loop_goes_on_counting(video: Path, pool: FramePool) -> None:
    capture, _ = capture_of(video, pool, "wait", loop=True)
    ids = []
    for _ in range(2 * FRAMES + 1):
        captured = capture.take()
        ids.append(captured.frame_id)
        captured.slot.give_back()
    capture.stop()
    assert ids == list(range(2 * FRAMES + 1))


def test_stopping_ends_a_capture_that_waits(video: Path, pool: FramePool) -> None:
    capture, progress = capture_of(video, pool, "wait", loop=True)
    capture.take().slot.give_back()
    capture.stop()
    capture._thread.join(10)
    assert not capture._thread.is_alive()
    for left in iter(capture.take, None):
        left.slot.give_back()
    assert pool.leased == 0
    assert progress.captured - sum(progress.dropped.values()) <= 2  # the one taken, and one that waited


def test_a_live_source_that_refuses_is_tried_again(pool: FramePool) -> None:
    tries = threading.Event()

    class Watched(Progress):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "reconnects" and value == 2:
                tries.set()

    progress = Watched()
    source = parse_source("http://127.0.0.1:9/stream", ())  # the discard port: nothing listens
    capture = Capture(source, policy="drop_oldest", loop=False, take_slot=pool.take, progress=progress)
    capture.start()
    assert tries.wait(30)
    assert progress.state == "reconnecting"
    assert progress.source_detail == "http://127.0.0.1:9/… cannot be opened as video"
    capture.stop()
    capture._thread.join(30)


def test_pauses_grow_to_a_bound_and_stay_there() -> None:
    assert [_pause_s(failures) for failures in (0, 1, 2, 3)] == [0.5, 1.0, 2.0, 4.0]
    assert _pause_s(7) == _pause_s(10_000) == 30.0


def test_a_rate_is_that_of_the_last_seconds() -> None:
    now_s = 0.0
    rate = Rate(lambda: now_s)
    for second in range(10):
        now_s = float(second)
        for _ in range(4):
            rate.tick()
    assert rate.per_second() == 4.0
    now_s = 100.0
    assert rate.per_second() == 0.0
