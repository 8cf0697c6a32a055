"""The quick cases from the field, as ``python -m scripts.trials field`` tries them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.trials.field import clients, machines, pictures
from scripts.trials.field.case import Case
from scripts.trials.stage import FOLDER, serving

# Those of videos and models ask no server: the unit tests try them.
CASES = (*pictures.CASES, *clients.CASES, *machines.CASES)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """That of scripts/serve with the embedded model: cases know its answers, and HAProxy's."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with serving() as cluster:
        yield cluster.url


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.is_quick], ids=lambda case: f"{case.kind}: {case.member}"
)
def test_what_comes_from_the_field_is_right(case: Case, url: str) -> None:
    assert case.problem(url) is None
