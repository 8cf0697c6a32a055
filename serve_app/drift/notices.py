"""The notices with which the monitor says that the drift of a source began, changed or ended."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.drift.watched import Change


@dataclass(frozen=True)
class Notice:
    """A change of a source's drift."""

    model: str
    source: str  # all sources of the model together have the name ``all``
    change: Change
    features: tuple[str, ...]  # that drift now, the largest PSI first
    psi: dict[str, float]  # of these features
    at_s: float  # when the change was noticed
    since_at_s: float | None  # when the drift began
    is_published: bool = False  # whether the webhook has had it
