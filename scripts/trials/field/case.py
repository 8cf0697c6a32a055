"""The definition of a case of the field trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """An image, camera, model, client or machine that occurs in practice, and a check that it is handled correctly."""

    kind: str  # such as "motion photos"
    member: str  # what distinguishes this case from others of its kind, such as "an MP4 after the JPEG's end"
    problem: Callable[[str], str | None]  # takes a server's URL; returns what is wrong, or None
    # True if the case takes at most 2 s and starts no server of its own. The test suite runs such cases.
    is_quick: bool = True
