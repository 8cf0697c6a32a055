"""The preferences that a client states in the header ``Prefer`` (RFC 7240)."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

MAX_WAIT_S = 30


@dataclass(frozen=True)
class Preferences:
    """Whether the client wants a job instead of an answer, and how long it would wait for a job's end."""

    respond_async: bool = False
    wait_s: int = 0


def preferences_of(request: Request) -> Preferences:
    """Return the preferences of a request. Unknown and invalid ones are ignored, as the standard says."""
    found: dict[str, str] = {}
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))  # the first one of a name counts
    wait = found.get("wait", "")
    is_number = wait.isascii() and wait.isdecimal() and len(wait) < 10
    return Preferences("respond-async" in found, min(int(wait), MAX_WAIT_S) if is_number else 0)
