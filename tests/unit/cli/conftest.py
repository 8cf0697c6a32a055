"""Fixtures for tests of the command."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make a folder with two images, and with files that cameras, systems and people leave beside images."""
    folder = tmp_path / "photos"
    (folder / "dock").mkdir(parents=True)
    for name in (".DS_Store", "Thumbs.db", "notes.pdf", "._a.jpg", "a.jpg", "dock/b.PNG", "dock/day.mp4"):
        (folder / name).write_bytes(b"1")
    return folder
