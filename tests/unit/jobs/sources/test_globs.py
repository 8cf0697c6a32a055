from __future__ import annotations

import pytest

from serve_app.jobs.sources.globs import matcher, split_glob


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.jpg", "a.jpg", True),
        ("*.jpg", "in/a.jpg", False),
        ("**/*.jpg", "a.jpg", True),
        ("**/*.jpg", "x/y/a.jpg", True),
        ("**", "x/y/a.jpg", True),
        ("in/**", "out/a.jpg", False),
        ("**/in/*.jpg", "in/x/in/a.jpg", True),
        ("**/in/*.jpg", "in/x/a.jpg", False),
        ("a?.jp[eg]", "ab.jpe", True),
        ("a?.jpg", "a/.jpg", False),
        ("a[/]b", "a/b", False),
        ("x/**/y/**/z.png", "x/1/2/y/3/z.png", True),
        ("x/**/y/**/z.png", "x/1/2/3/z.png", False),
        ("", "anything/at.all", True),
    ],
)
def test_a_pattern_matches_part_by_part(pattern: str, path: str, matches: bool) -> None:
    assert matcher(pattern)(path) is matches


def test_a_pattern_with_many_stars_is_fast() -> None:
    """One regular expression for the whole pattern would take years."""
    assert not matcher("/".join(["**", "*a" * 30, "**"] * 8) + "/x")("/".join(["a" * 200] * 60) + "b")


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("in/night/**/*.jpg", ("in/night", "**/*.jpg")),
        ("*.jpg", ("", "*.jpg")),
        ("/a/b", ("/a/b", "")),
        ("a[1]/b", ("", "a[1]/b")),
    ],
)
def test_a_path_is_split_before_its_first_wildcard(path: str, parts: tuple[str, str]) -> None:
    assert split_glob(path) == parts
