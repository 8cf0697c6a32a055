"""Tests of the quick cases of the field trial, as in ``python -m scripts.trials field``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.trials.field import clients, machines, pictures
from scripts.trials.field.case import Case
from scripts.trials.stage import FOLDER, serving

# The cases of videos and models need no server, so they are in the unit tests.
CASES = (*pictures.CASES, *clients.CASES, *machines.CASES)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run scripts/serve with the embedded model, because the cases expect its answers and those of HAProxy."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with serving() as cluster:
        yield cluster.url


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.is_quick], ids=lambda case: f"{case.kind}: {case.member}"
)
def test_each_field_case_passes(case: Case, url: str) -> None:
    assert case.problem(url) is None
