"""Fixtures for the tests of hostile sources: a media folder, and a secret video outside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serve_app.video import ffmpeg, web
from tests.support.hostile_sources import FRAMES, frames_of, save


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return a video that no stream may show."""
    (tmp_path / "secret").mkdir()
    return save(tmp_path / "secret/secret.ts", "mpeg2video")


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Return a folder whose files may be streamed."""
    (tmp_path / "media").mkdir()
    return tmp_path / "media"


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the timeouts in every test of this folder."""
    monkeypatch.setattr(ffmpeg, "_OPEN_TIMEOUT_S", 2.0)
    monkeypatch.setattr(ffmpeg, "_READ_TIMEOUT_S", 2.0)
    monkeypatch.setattr(web, "_TIMEOUT_S", 2.0)


@pytest.fixture
def lists(secret: Path, media: Path) -> None:
    """Copy the secret video to the path to which some hostile playlists refer.

    A player that follows such a playlist would play the copy.
    """
    shutil.copy(secret, f"{secret}.m3u8")
    assert frames_of(secret, secret.parent) == FRAMES
