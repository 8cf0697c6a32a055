from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from serve_app.detections import Detections
from serve_app.schemas.recording import ClipNotice
from serve_app.schemas.streams import Recording
from serve_app.streams.outputs.recorder import Recorder, _write
from tests.support import tasks
from tests.support.file_sizes import files_of_at_most
from tests.support.recordings import GREY, STARTED_AT_S, Recorded


def frames_of(path: Path) -> list[tuple[float, np.ndarray]]:
    """Return each frame's time and pixels. The time is in seconds since the first frame."""
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]
    return [(at_s - frames[0][0], pixels) for at_s, pixels in frames]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lot"


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_clip_includes_the_pre_roll_and_the_post_roll(folder: Path) -> None:
    recorded = Recorded(folder, pre_roll_s=1, post_roll_s=2)
    for tenth in range(100):
        recorded.show(tenth / 10, *(["dog"] if 30 <= tenth < 40 else []))
    (clip,) = recorded.close()
    times = [at_s for at_s, _ in frames_of(folder / clip.clip)]
    assert clip.began_at_s - STARTED_AT_S == pytest.approx(2.0)
    assert clip.labels == ["dog"]
    assert times == pytest.approx([n / 10 for n in range(40)], abs=0.001)  # the frames from 2.0 s to 5.9 s
    assert clip.duration_s == pytest.approx(3.9)
    assert recorded.clips[0].labels == ["dog"]
    assert recorded.clips[0].change == "started"


def test_boxes_are_drawn_in_clip_and_snapshot(folder: Path) -> None:
    recorded = Recorded(folder)
    before = GREY.copy()
    for tenth in range(5):
        recorded.show(tenth / 10, "dog")
    (clip,) = recorded.close()
    snapshot = cv2.imread(str(folder / clip.snapshot))
    assert snapshot is not None
    assert snapshot.shape == GREY.shape
    for picture in (snapshot, frames_of(folder / clip.clip)[0][1]):
        assert np.abs(picture[30, 10].astype(int) - 90).max() > 40  # the box's left edge
        assert np.abs(picture[5, 60].astype(int) - 90).max() < 20
    assert (before == GREY).all()


def test_only_the_requested_labels_start_a_clip(folder: Path) -> None:
    recorded = Recorded(folder, labels=["cat"])
    recorded.show(0, "dog")
    recorded.show(1)
    assert recorded.close() == []
    assert not folder.exists()


def test_a_long_clip_ends_and_the_next_one_starts_without_a_gap(folder: Path) -> None:
    recorded = Recorded(folder, pre_roll_s=5, max_clip_s=1)
    for tenth in range(25):
        recorded.show(tenth / 10, "dog")
    clips = recorded.close()
    seen = [
        round(clip.began_at_s - STARTED_AT_S + at_s, 1) for clip in clips for at_s, _ in frames_of(folder / clip.clip)
    ]
    assert seen == [n / 10 for n in range(25)]
    assert len(clips) == 3


def test_a_frame_of_another_size_starts_another_clip(folder: Path) -> None:
    recorded = Recorded(folder)
    recorded.show(0, "dog")
    recorded.show(1, "dog", pixels=np.zeros((101, 201, 3), np.uint8))
    sizes = [frames_of(folder / clip.clip)[0][1].shape[:2] for clip in recorded.close()]
    assert sizes == [(48, 64), (100, 200)]


def test_a_large_frame_is_downscaled_in_the_clip_but_not_in_the_snapshot(folder: Path) -> None:
    recorded = Recorded(folder)
    recorded.show(0, "dog", pixels=np.zeros((1080, 1920, 3), np.uint8))
    (clip,) = recorded.close()
    assert frames_of(folder / clip.clip)[0][1].shape[:2] == (720, 1280)
    snapshot = cv2.imread(str(folder / clip.snapshot))
    assert snapshot is not None
    assert snapshot.shape[:2] == (1080, 1920)


@pytest.mark.parametrize(("max_fps", "fps", "duration_s", "least", "most"), [(5, 25, 4, 17, 21), (0.5, 5, 10, 4, 7)])
def test_a_clip_has_at_most_max_fps_frames_per_second(
    folder: Path, max_fps: float, fps: int, duration_s: int, least: int, most: int
) -> None:
    recorded = Recorded(folder, max_fps=max_fps)
    for number in range(fps * duration_s):
        recorded.show(number / fps, "dog")
    (clip,) = recorded.close()
    assert least <= len(frames_of(folder / clip.clip)) <= most
    assert recorded.recorder.status().dropped == {}


def test_only_the_oldest_clips_are_deleted(folder: Path) -> None:
    folder.mkdir()
    (folder / "mine.mp4").write_text("keep me")
    recorded = Recorded(folder, keep=2, post_roll_s=0)
    for second in range(0, 50, 5):
        recorded.show(second, "dog")
        recorded.show(second + 1)
    clips = recorded.close()
    assert len(clips) == 10
    kept = {name for clip in clips[-2:] for name in (clip.clip, clip.snapshot)}
    assert {path.name for path in folder.iterdir()} == kept | {"mine.mp4"}


def test_only_the_owner_may_read_recordings(folder: Path) -> None:
    recorded = Recorded(folder)
    recorded.show(0, "dog")
    recorded.close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_clock_that_is_set_back_does_not_end_a_clip(folder: Path) -> None:
    recorded = Recorded(folder)
    for at_s in (100, 100.1, 50, 50.1, 50.2):
        recorded.show(at_s, "dog")
    (clip,) = recorded.close()
    times = [at_s for at_s, _ in frames_of(folder / clip.clip)]
    assert len(times) == 5
    assert times == sorted(set(times))


def test_a_folder_that_cannot_be_written_costs_frames_that_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "missing" / "lot"
    recorded = Recorded(folder, post_roll_s=0)
    recorded.show(0, "dog")
    recorded.show(1, "dog")
    while recorded.recorder.status().dropped != {"unwritable": 2}:
        time.sleep(0.001)
    assert recorded.recorder.status().detail == "the recording cannot be written: No such file or directory"
    assert str(tmp_path) not in recorded.recorder.status().detail
    folder.parent.mkdir()
    recorded.show(2, "dog")
    (clip,) = recorded.close()
    assert len(frames_of(folder / clip.clip)) == 1
    assert recorded.recorder.status().detail == ""


def test_a_slow_disk_never_blocks_the_stream(folder: Path) -> None:
    slow = threading.Event()

    def wait(clip: ClipNotice) -> None:
        slow.wait(30)

    recorder = Recorder(Recording(max_fps=30), folder, on_clip=wait)
    found = Detections(np.array([[1, 1, 9, 9]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32), ("dog",))
    for number in range(100):
        recorder.put(GREY, found, STARTED_AT_S + number)
    dropped = recorder.status().dropped["queue_full"]
    slow.set()
    recorder.close(30)
    assert 90 <= dropped <= 92


def test_a_clip_that_cannot_be_finished_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_clip: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("serve_app.streams.outputs.recorder._OpenClip.close", fail)
    recorded = Recorded(folder, post_roll_s=0)
    recorded.show(0, "dog")
    assert recorded.close() == []
    assert list(folder.iterdir()) == []
    assert "No space left" in recorded.recorder.status().detail


def test_a_clip_ends_when_the_camera_is_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.streams.outputs.recorder._LATE_FRAME_S", 0.05)
    recorded = Recorded(folder, post_roll_s=0)
    recorded.show(0, "dog")
    deadline_s = time.monotonic() + 10
    while not recorded.recorder.status().clips:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert len(recorded.close()) == 1


def test_a_full_disk_leaves_no_partial_file(tmp_path: Path) -> None:
    with files_of_at_most(10), pytest.raises(OSError, match="too large"):
        _write(tmp_path / "a.jpg", bytes(100))
    assert list(tmp_path.iterdir()) == []


def test_a_clip_of_a_killed_process_can_be_played(folder: Path) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        from tests.support.recordings import Recorded
        recorded = Recorded(Path(sys.argv[1]))
        for tenth in range(50):
            recorded.show(tenth / 10, "dog")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(folder)], check=False, timeout=60)
    (part,) = folder.glob("*.part")
    Recorded(folder).close()
    assert len(frames_of(part.with_suffix(""))) >= 20
    assert list(folder.glob("*.part")) == []


def test_the_class_of_a_whole_image_starts_a_clip_only_if_it_is_named(folder: Path) -> None:
    for labels, clips in (([], 0), (["cat"], 0), (["dog"], 1)):
        recorded = Recorded(folder, labels=labels)
        recorded.recorder.put(GREY, tasks.classified(), STARTED_AT_S)
        assert len(recorded.close()) == clips
