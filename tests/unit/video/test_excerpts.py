"""Short videos, read a few frames at a time."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from serve_app.errors import SourceError, SourceTooLarge
from serve_app.video import excerpts
from serve_app.video.excerpts import read_excerpt
from tests.support.videos import frame_shown, save_coded_video, save_video

MAX_PIXELS = 1_000_000


def shown(video: bytes, stride: int) -> list[int]:
    """Return the numbers of the frames that all excerpts together have."""
    numbers: list[int] = []
    at_s, passed = -1.0, 0
    while at_s < math.inf:
        excerpt = read_excerpt(video, MAX_PIXELS, at_s, passed, stride)
        pixels = (cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR) for one in excerpt.frames)
        numbers += [frame_shown(one) for one in pixels if one is not None]
        at_s, passed = excerpt.read_to_s, excerpt.passed
    return numbers


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
@pytest.mark.parametrize("coded", [True, False], ids=["h264", "ffv1"])
def test_each_frame_is_read_once(tmp_path: Path, stride: int, coded: bool) -> None:
    """With a stride, the last frame of each group is read, as by Ultralytics' command."""
    if coded:
        path = save_coded_video(tmp_path / "a.mp4", frames=40, keys={0, 13})
    else:
        path = save_video(tmp_path / "a.avi", frames=40, fps=25)
    assert shown(path.read_bytes(), stride) == list(range(stride - 1, 40, stride))


def test_an_excerpt_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = save_video(tmp_path / "a.avi", frames=20, fps=25).read_bytes()
    assert len(read_excerpt(video, MAX_PIXELS, -1.0, 0, 1).frames) == 16
    monkeypatch.setattr(excerpts, "_MAX_BYTES", 1)
    assert len(read_excerpt(video, MAX_PIXELS, -1.0, 0, 1).frames) == 1


def test_other_bytes_are_refused_and_a_truncated_video_ends(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        read_excerpt(b"not a video", MAX_PIXELS, -1.0, 0, 1)
    video = save_video(tmp_path / "a.avi", frames=20, fps=25).read_bytes()
    with pytest.raises(SourceTooLarge):
        read_excerpt(video, 100, -1.0, 0, 1)
    found = shown(video[: len(video) // 2], 1)
    assert 0 < len(found) < 20
    assert found == list(range(len(found)))
