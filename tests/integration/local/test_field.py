"""Run the quick cases of the field trial, which ``python -m scripts.trials field`` runs in full."""

from __future__ import annotations

import pytest

from scripts.launch import Server
from scripts.trials.field import clients, machines, pictures
from scripts.trials.field.case import Case

# The cases with videos and models need no server, so the unit tests run them.
CASES = (*pictures.CASES, *clients.CASES, *machines.CASES)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.is_quick], ids=lambda case: f"{case.kind}: {case.member}"
)
def test_each_field_case_passes(case: Case, server: Server) -> None:
    assert case.problem(server.url) is None
