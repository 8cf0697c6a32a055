"""The definition of a case from the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One member of a kind: something that users really have, and a check that it is handled correctly."""

    kind: str  # "motion photos"
    member: str  # "an MP4 after the JPEG's end"
    problem: Callable[[str], str | None]  # URL of a running server -> a sentence about what is wrong, or None
    is_quick: bool = True  # takes a second or two and starts no server of its own, so the test suite runs it
