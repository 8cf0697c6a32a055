"""The hysteresis of the scene health."""

from __future__ import annotations

from collections import Counter, deque

from serve_app.schemas.scene import ALARMS, SceneState

# A state is reported when most samples of this time agree. The median of the samples reacts after 5 s, so a fault is
# reported after less than 30 s, and a person who stands before the lens for less than 16 s is not.
_WINDOW_S = 20.0
_FULL_S = 16.0  # samples that cover less time are too few to decide
_MIN_SAMPLES = 5
_MOST = 0.8


class Confirmation:
    """Delays changes of state until they are certain, so that the state does not change back and forth."""

    def __init__(self, state: SceneState) -> None:
        self.state = state
        self._recent: deque[tuple[float, SceneState]] = deque()

    def interrupt(self) -> None:
        """Forget the recent samples, and keep the state."""
        self._recent.clear()

    def update(self, found: SceneState, at_s: float) -> SceneState:
        """Return the state after a sample in which ``found`` was found. ``at_s`` is the sample's time in seconds."""
        recent = self._recent
        recent.append((at_s, found))
        while len(recent) > _MIN_SAMPLES and recent[0][0] < at_s - _WINDOW_S:
            recent.popleft()
        if len(recent) < _MIN_SAMPLES or at_s - recent[0][0] < _FULL_S:
            return self.state
        alarms = Counter(state for _, state in recent if state in ALARMS)
        if alarms.total() >= _MOST * len(recent):
            self.state = alarms.most_common(1)[0][0]
        elif alarms.total() <= (1 - _MOST) * len(recent):
            self.state = Counter(state for _, state in recent if state not in ALARMS).most_common(1)[0][0]
        return self.state
