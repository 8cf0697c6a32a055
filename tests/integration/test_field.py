"""Run the quick cases of the field trial, which ``python -m scripts.trials field`` runs in full."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.trials.field import clients, machines, pictures
from scripts.trials.field.case import Case
from scripts.trials.stage import FOLDER, serving

# The cases with videos and models need no server, so the unit tests run them.
CASES = (*pictures.CASES, *clients.CASES, *machines.CASES)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run scripts/serve, because the cases expect answers of the embedded model and of HAProxy."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with serving() as cluster:
        yield cluster.url


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.is_quick], ids=lambda case: f"{case.kind}: {case.member}"
)
def test_each_field_case_passes(case: Case, url: str) -> None:
    assert case.problem(url) is None
