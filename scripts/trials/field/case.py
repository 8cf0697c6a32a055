"""A case from the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One member of a kind: something that exists, and what is right for it."""

    kind: str  # "motion photos"
    member: str  # "an MP4 behind the JPEG's end"
    problem: Callable[[str], str | None]  # URL of a running server -> what is wrong, in a sentence; None: it is right
    is_quick: bool = True  # takes a second or two, and needs no server but that one: the test suite runs it
