"""The video for the tests that run streams in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.local_streams import FRAMES
from tests.support.videos import save_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Return a video file that has ``FRAMES`` frames and lasts 2 s."""
    return save_video(tmp_path / "a.avi", frames=FRAMES, fps=10)
