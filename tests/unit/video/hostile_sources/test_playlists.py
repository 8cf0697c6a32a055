"""Playlists and other files that name further files or servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.errors import SourceError
from tests.support.hostile_sources import LISTS, NAMES_SERVER, filled, frames_of
from tests.support.traps import Trap


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize("suffix", [".m3u8", ".mp4", ".ts"])
@pytest.mark.parametrize("name", [*LISTS, *NAMES_SERVER])
def test_a_file_that_names_other_files_or_servers_is_refused(
    name: str, suffix: str, secret: Path, media: Path, forbidden: Trap
) -> None:
    path = media / f"a{suffix}"
    path.write_bytes(filled((LISTS | NAMES_SERVER)[name], secret, forbidden))
    with pytest.raises(SourceError):
        frames_of(path, media)


@pytest.mark.parametrize("suffix", [".sdp", ".ffconcat", ".concat", ".mpd", ".xml", ".txt", ""])
def test_such_a_file_is_also_refused_under_other_names(suffix: str, secret: Path, media: Path, forbidden: Trap) -> None:
    for number, text in enumerate((LISTS | NAMES_SERVER).values()):
        path = media / f"{number}{suffix}"
        path.write_bytes(filled(text, secret, forbidden))
        with pytest.raises(SourceError):
            frames_of(path, media)
