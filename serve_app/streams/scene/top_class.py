"""The most probable class of a stream's frames."""

from __future__ import annotations

from serve_app.detections import Ranking
from serve_app.schemas.streams import LabelChange
from serve_app.types import Frame


class TopClass:
    """Notices when another class becomes the most probable one, and stays so for some time."""

    def __init__(self, after_s: float, label: str | None) -> None:
        """Continue with the class ``label``. Another class replaces it after ``after_s`` seconds of the video."""
        self.label = label
        self._after_s = after_s
        self._rival: tuple[str, float] | None = None  # another class, and since when it is the most probable

    def update(self, ranking: Ranking, frame: Frame) -> LabelChange | None:
        """Return an event if the class changes with this frame. A frame without a class has no effect."""
        if not ranking.labels:
            return None
        top = ranking.labels[0]
        if top == self.label:
            self._rival = None
            return None
        if self._rival is None or self._rival[0] != top:
            self._rival = top, frame.stream_time_s
        if frame.stream_time_s - self._rival[1] < self._after_s:
            return None
        change = LabelChange(
            frame_id=frame.frame_id,
            captured_at_s=frame.captured_at_s,
            label=top,
            previous=self.label,
            confidence=round(float(ranking.confidence[0]), 4),
        )
        self.label, self._rival = top, None
        return change
