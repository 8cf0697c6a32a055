"""A video for the streams of this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.local_streams import FRAMES
from tests.support.videos import save_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A file of ``FRAMES`` frames, which lasts 2 s."""
    return save_video(tmp_path / "a.avi", frames=FRAMES, fps=10)
