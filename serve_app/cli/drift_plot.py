"""The plot that ``sightline drift plot`` saves: each feature's reference beside its current window."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from serve_app.schemas.drift import DriftHistograms, FeatureHistogram

_MAX_BARS = 28
_COLUMNS = 5
_MAX_LABEL = 30  # characters


def save_plot(histograms: DriftHistograms, path: Path) -> Path:
    """Draw the histograms of all features, save the drawing, and return its path.

    The suffix of the path is the format; without a suffix, it is PNG. Raise ValueError if matplotlib does not know the
    suffix, and OSError if the drawing cannot be saved.
    """
    rows = -(-len(histograms.features) // _COLUMNS)
    figure, grid = plt.subplots(rows, _COLUMNS, figsize=(4 * _COLUMNS, 3.2 * rows), layout="constrained", squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for axes, (name, feature) in zip(grid.flat, histograms.features.items(), strict=False):
        axes.set_visible(True)
        bins = shown_bins(feature)
        at = range(len(bins))
        axes.bar([x - 0.2 for x in at], [feature.reference[i] for i in bins], 0.4, label="reference", color="#9aa0a6")
        axes.bar([x + 0.2 for x in at], [feature.current[i] for i in bins], 0.4, label="current", color="#1a73e8")
        # A label is plain text, although it may look like a formula of TeX.
        axes.set_xticks(list(at), [_short(feature.bins[i]) for i in bins], rotation=90, fontsize=6, parse_math=False)
        axes.set_title(name)
    grid[0, 0].legend(fontsize=8)
    figure.suptitle(f"{histograms.source}, model {histograms.model}: share of values")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the font lacks some characters, which become boxes
            figure.savefig(path, dpi=110, format=path.suffix.removeprefix(".") or "png")
    finally:
        plt.close(figure)
    return path


def _short(label: str) -> str:
    return label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL - 1]}…"


def shown_bins(feature: FeatureHistogram) -> list[int]:
    """Return the numbers of the bins to draw, in order: those that are not empty, or the largest of them."""
    largest = [max(pair) for pair in zip(feature.reference, feature.current, strict=True)]
    used = sorted((number for number, share in enumerate(largest) if share), key=lambda number: -largest[number])
    return sorted(used[:_MAX_BARS])
