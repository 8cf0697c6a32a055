"""Tests of the files of the console: they are small and complete, and data cannot become markup in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

CONSOLE = ROOT / "serve_app/console"
MAX_BYTES = 150_000  # without the sample images
FILES = sorted(path for path in CONSOLE.iterdir() if path.suffix in {".css", ".html", ".js", ".svg"})
# These would parse data as markup or as a program, and the content security policy refuses inline styles and handlers.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\(\s*\"style\"|"
    r"style=|<style|<script>|\son[a-z]+=\"|https?://(?!www\.w3\.org|example\.com)"
)
_LINK = re.compile(r"(?:from |import\(|href=|src=|url\()[\"`](?:console|\.)?/?([\w./]+\.(?:js|css|svg))")


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FILES) <= MAX_BYTES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_can_turn_data_into_markup(path: Path) -> None:
    text = path.read_text()
    assert not [line for line in text.splitlines() if FORBIDDEN.search(line)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_is_long(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 400


def test_the_page_reaches_every_file_and_no_other() -> None:
    reached: set[str] = set()
    new = {"index.html"}
    while new:
        reached |= new
        new = {name for one in new for name in _LINK.findall((CONSOLE / one).read_text())} - reached
    assert reached == {path.name for path in FILES}
