"""Tracking of objects: each detection gets a track id that stays the same from frame to frame of a stream.

The algorithm is ByteTrack (Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV
2022), from Roboflow's library `trackers`: a Kalman filter predicts each box's next position, and each new box is
assigned to the prediction that it overlaps most, whatever its class.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import StartError
from serve_app.types import Detections

_LOST_FRAMES = 30  # at 30 fps, as in the paper: a track survives 1 s without a detection
_MIN_LOST_FRAMES = 3  # even in a slow stream, a track survives one missed detection and late frames


class Tracker:
    """Assigns track ids to the detections of one stream."""

    def __init__(self, fps: float, first_id: int = 1) -> None:
        """Start tracking at ``fps`` frames per second. Raise StartError if the library is not installed."""
        try:
            # We import here, because the library costs 76 MB and 1.7 s and most streams do not need it.
            from trackers import ByteTrackTracker
        except ImportError as exc:
            raise StartError("tracking is not installed; run: pip install 'sightline[tracking]'") from exc
        self._frame_s = 1 / fps
        self._first_id = first_id
        self._next_id = first_id
        self._clock_s = 0.0
        self._last_at_s: float | None = None
        # Every detection above the detector's threshold is an object. So each may start a track (activation), and none
        # is only good enough to continue one (high_conf). An id still takes two frames in a row, as in the paper.
        self._library = ByteTrackTracker(
            frame_rate=fps,
            lost_track_buffer=max(_LOST_FRAMES, math.ceil(_MIN_LOST_FRAMES * 30 / fps)),  # in frames at 30 fps
            track_activation_threshold=0.0,
            high_conf_det_threshold=0.0,
            minimum_consecutive_frames=2,
        )

    @property
    def next_id(self) -> int:
        """The id of the next new object. Pass it as ``first_id`` when the stream restarts."""
        return self._next_id

    def update(self, detections: Detections, at_s: float | None = None) -> NDArray[np.int64]:
        """Return the track id of each detection, in the same order; -1 for an object seen for the first time.

        Call it for frames without detections, too. ``at_s`` is the frame's capture time, so that predictions move
        further after dropped frames. Without it, or if the clock was set back, the frame counts as the next one.
        """
        import supervision

        self._advance(at_s)
        n = len(detections)
        tracked = self._library.update(
            # The library returns the detections in another order. It ignores classes, so we pass the indices as such.
            supervision.Detections(detections.xyxy, confidence=detections.confidence, class_id=np.arange(n)),
            timestamp=self._clock_s,
        )
        ids = np.full(n, -1, np.int64)  # (n,)
        ids[tracked.class_id] = np.where(tracked.tracker_id >= 0, tracked.tracker_id + self._first_id, -1)
        self._next_id = max(self._next_id, int(ids.max(initial=-1)) + 1)
        return ids

    def _advance(self, at_s: float | None) -> None:
        elapsed_s = 0.0 if at_s is None or self._last_at_s is None else at_s - self._last_at_s
        self._clock_s += elapsed_s if elapsed_s > 0 else self._frame_s
        self._last_at_s = at_s
