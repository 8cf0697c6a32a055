"""The detection of a source that repeats the same frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

_FROZEN_AFTER_S = 15.0  # longer than the intervals between key frames, which most cameras set to 1 s to 10 s
_FROZEN_SAMPLES = 5
_KNOWN_AFTER = 20  # comparisons, before the source's habits are known
_RARELY = 0.05  # a source of which fewer samples than this are identical to the previous one is not still by itself
_LONGER = 3.0  # a pause is unusual if it is longer than the longest earlier pause by this factor
_MAX_COMPARED = 100_000  # a day of samples; then all counts are halved, so that new habits count more than old ones

Freeze = Literal["", "frozen", "frozen?"]


@dataclass(frozen=True)
class Habits:
    """How often a source has sent identical frames. Freezes that were reported do not count."""

    compared: int = 0  # comparisons of two successive samples
    identical: int = 0
    longest_still_s: float = 0.0


class Stillness:
    """Compares each sample of a stream with the previous one.

    A real camera always has noise. A source without noise, such as a drawn or a still image, or a video of which the
    encoder left the noise out, sends identical frames while nothing moves. We therefore learn each source's habits.
    """

    def __init__(self, habits: Habits) -> None:
        self.habits = habits
        self._previous: Any = None
        self._still_since_s = 0.0
        self._still_samples = 0
        self._freeze: Freeze = ""

    @property
    def is_still(self) -> bool:
        """Whether the last sample is identical to the one before it."""
        return self._still_samples > 0

    def interrupt(self) -> None:
        """Forget the previous sample, because the stream was interrupted."""
        self._previous, self._still_samples, self._freeze = None, 0, ""

    def update(self, sampled: Any, at_s: float) -> Freeze:
        """Return whether the source is frozen. ``at_s`` is the sample's time in seconds, which always increases."""
        if self._previous is None or not np.array_equal(sampled, self._previous):
            if self._previous is not None:
                self._learn(at_s)
            self._previous, self._still_since_s, self._still_samples, self._freeze = sampled, at_s, 0, ""
            return ""
        self._still_samples += 1
        still_s = at_s - self._still_since_s
        if not self._freeze and still_s >= _FROZEN_AFTER_S and self._still_samples >= _FROZEN_SAMPLES:
            habits = self.habits
            if habits.compared >= _KNOWN_AFTER and habits.identical < _RARELY * habits.compared:
                self._freeze = "frozen"
            elif still_s > _LONGER * habits.longest_still_s:
                self._freeze = "frozen?"
        return self._freeze

    def _learn(self, at_s: float) -> None:
        habits = self.habits
        if self._freeze != "frozen":
            longest_s = max(habits.longest_still_s, at_s - self._still_since_s if self._still_samples else 0.0)
            still = habits.identical + self._still_samples
            habits = Habits(habits.compared + self._still_samples, still, longest_s)
        self.habits = replace(habits, compared=habits.compared + 1)
        if self.habits.compared > _MAX_COMPARED:
            self.habits = replace(habits, compared=habits.compared // 2, identical=habits.identical // 2)
