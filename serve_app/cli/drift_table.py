"""The table that ``sightline drift`` prints."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table

from serve_app.schemas.drift import SourceDrift


def drift_table(sources: list[SourceDrift]) -> Table:
    """Return a table with one row for each source."""
    table = Table(box=SIMPLE, padding=0)
    for heading in ("source", "model", "state", "since", "largest psi / limit", "reference", "window"):
        table.add_column(heading, overflow="fold")
    for one in sources:
        state = f"{one.state}: {', '.join(one.drifting) or one.detail}" if one.drifting or one.detail else one.state
        reference = "" if one.reference is None else f"{one.reference.images} images"
        window = "" if one.reference is None else f"{one.window_images} images"
        table.add_row(one.source, one.model, state, _since(one), _largest(one), reference, window)
    return table


def _since(one: SourceDrift) -> str:
    from datetime import UTC, datetime

    if one.since_at_s is None:
        return ""
    return datetime.fromtimestamp(one.since_at_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _largest(one: SourceDrift) -> str:
    """Return the figure of the feature that is nearest to its limit, or farthest above it."""
    known = [
        (feature.psi / feature.limit, name, feature.psi, feature.limit)
        for name, feature in one.features.items()
        if feature.psi is not None and feature.limit
    ]
    if not known:
        return ""
    _, name, psi, limit = max(known)
    return f"{name} {psi:.2f} / {limit:.2f}"
