"""What a check of ``sightline doctor`` has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from serve_app.errors import StartError

Mark = Literal["ok", "warning", "missing"]  # missing: something that ``sightline serve`` needs


@dataclass(frozen=True)
class Finding:
    """The result of one check: what it found, and how to fix it if it is not ok."""

    check: str
    mark: Mark
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """Return the finding of a check that found no problem."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, fix: str) -> Finding:
    """Return the finding of a problem that does not stop the service from working."""
    return Finding(check, "warning", found, fix)


def missing(check: str, found: str, fix: str) -> Finding:
    """Return the finding of a problem that prevents the service from starting."""
    return Finding(check, "missing", found, fix)


def attempt(check: str, found: str, action: Callable[[], object]) -> Finding:
    """Call one of the service's own checks. Its error is a sentence that also says what to do."""
    try:
        action()
    except StartError as exc:
        return Finding(check, "missing", exc.detail)
    return ok(check, found)
