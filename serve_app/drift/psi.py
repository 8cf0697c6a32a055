"""The population stability index (PSI) of a feature, corrected for small samples and for images that resemble others.

``PSI = Σ (p − q) ln(p / q)`` over the bins, with the shares ``p`` of the current window and ``q`` of the reference.

- **Small samples.** Without drift, and if all observations are independent, the PSI of ``n`` observations against ``m``
  is about ``(1/n + 1/m)`` times a chi-squared variable with one degree of freedom less than there are bins: see
  Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal of Risk Model Validation 14
  (2020). Its mean is subtracted from the PSI, and a PSI below its quantile ``_CHANCE`` is never drift.
- **Rare values.** Bins with fewer than five expected observations are merged: see Cochran, "Some methods for
  strengthening the common χ² tests", Biometrics 10 (1954). Values that the reference never has form a bin of their own.
  Half an observation is added to every bin, so that the logarithm of an empty bin is finite.
- **Images that resemble others.** The frames of one camera are no independent sample, so chi-squared is only a lower
  bound. The reference is therefore divided into blocks as long as a window, and each block is compared with all the
  others. A PSI is drift only if it exceeds what the reference's own blocks reach: see ``limit``.
- **Light.** Brightness, contrast and sharpness are compared after smoothing over three neighbouring bins on either
  side, so that a slow change of the light by one bin is a small change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.drift.bins import Feature

_MIN_EXPECTED = 5.0
_ADDED = 0.5
_CHANCE = 4.753  # the normal quantile of 1 − 10⁻⁶
_SMOOTHED = {"brightness", "contrast", "sharpness"}
_KERNEL = np.array([1, 2, 3, 4, 3, 2, 1]) / 16
# How far a PSI must exceed the largest PSI of the reference's blocks. With few blocks, their largest says less.
_MARGIN, _MARGIN_OF_FEW_BLOCKS = 4.5, 6.0
_HIGHEST_LIMIT = 6.0  # a PSI above it means that the window and the reference have nearly nothing in common


@dataclass(frozen=True)
class Distance:
    """How far the shares of a window are from those of a reference."""

    psi: float  # corrected for small samples, at least 0
    chance: float  # a corrected PSI below it can be chance, even if all observations are independent


def distance(feature: Feature, reference: NDArray[Any], window: NDArray[Any]) -> Distance:
    """Return the distance of a feature's counts in a window from those in a reference.

    Both arrays have the shape ``(feature.size,)``, and neither is empty. The reference may have fractions of counts.
    """
    n, m = float(window.sum()), float(reference.sum())
    current, expected = window / n, reference / m
    if feature.name in _SMOOTHED:
        current, expected = _smooth(current), _smooth(expected)
    current, expected = _merge_rare(current, expected, n)
    bins = len(expected)
    p = (n * current + _ADDED) / (n + _ADDED * bins)
    q = (m * expected + _ADDED) / (m + _ADDED * bins)
    psi = float(((p - q) * np.log(p / q)).sum())
    scale = 1 / n + 1 / m
    mean = (bins - 1) * scale
    return Distance(max(psi - mean, 0.0), _chi_squared(bins - 1) * scale - mean)


def limit(chance: float, least: float, noise: float, blocks: int) -> float:
    """Return the PSI above which a feature drifts.

    ``least`` is the limit that the operator has set. ``noise`` is the largest PSI of a block of the reference against
    the other blocks, and ``blocks`` is the number of blocks.
    """
    margin = _MARGIN + _MARGIN_OF_FEW_BLOCKS / max(blocks, 1)
    return min(max(least, chance, margin * noise), _HIGHEST_LIMIT)


def _smooth(shares: NDArray[Any]) -> NDArray[Any]:
    """Spread each share over its neighbours. What would lie beyond the first or the last bin stays in that bin."""
    reach = len(_KERNEL) // 2
    spread = np.convolve(shares, _KERNEL)
    inner = spread[reach:-reach].copy()
    inner[0] += spread[:reach].sum()
    inner[-1] += spread[-reach:].sum()
    return inner


def _merge_rare(current: NDArray[Any], expected: NDArray[Any], n: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Merge the bins of values that the reference never has, and those of values that it has rarely.

    Kept apart, a value that was never seen before stands out, even if it is as frequent as all rare values together.
    """
    usual = n * expected >= _MIN_EXPECTED
    never = expected == 0
    rare = ~usual & ~never
    merged = [(current[part].sum(), expected[part].sum()) for part in (rare, never)]
    merged = [pair for pair in merged if any(pair)]
    return (
        np.append(current[usual], [pair[0] for pair in merged]),
        np.append(expected[usual], [pair[1] for pair in merged]),
    )


def _chi_squared(freedom: int) -> float:
    """Return the quantile of chi-squared at ``_CHANCE``, with the approximation of Wilson and Hilferty (1931)."""
    if freedom == 0:
        return 0.0
    ninth = 2 / (9 * freedom)
    return float(freedom * (1 - ninth + _CHANCE * math.sqrt(ninth)) ** 3)
