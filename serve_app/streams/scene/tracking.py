"""Which detection is which object: a track id for each, from frame to frame of one stream.

The algorithm is ByteTrack (Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV
2022), as in Roboflow's library `trackers`: where each box will be next is predicted by a Kalman filter, and boxes are
assigned to the predictions they overlap most, whatever their class.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import StartError
from serve_app.types import Detections

_LOST_FRAMES = 30  # at 30 fps, as in the paper: a track lives on for a second without a detection
_LEAST_LOST_FRAMES = 3  # however slow the stream: a frame without a detection, and late frames, are bridged


class Tracker:
    """Tracks the objects of one stream."""

    def __init__(self, fps: float, first_id: int = 1) -> None:
        """``fps`` is what the stream delivers. Raises StartError where the library is not installed."""
        try:
            from trackers import ByteTrackTracker  # here, since it costs 76 MB and 1.7 s: most streams go without
        except ImportError as exc:
            raise StartError("tracking is an extra: pip install 'sightline[tracking]'") from exc
        self._frame_s = 1 / fps
        self._first_id = first_id
        self._next_id = first_id
        self._clock_s = 0.0
        self._at_s: float | None = None
        # What the detector's threshold let pass is an object, so it may begin a track (activation), and none is only
        # good enough to continue one (high_conf). An id still takes two frames in a row, as in the paper.
        self._library = ByteTrackTracker(
            frame_rate=fps,
            lost_track_buffer=max(_LOST_FRAMES, math.ceil(_LEAST_LOST_FRAMES * 30 / fps)),  # counts frames of 30 fps
            track_activation_threshold=0.0,
            high_conf_det_threshold=0.0,
            minimum_consecutive_frames=2,
        )

    @property
    def next_id(self) -> int:
        """The next new object's id: the ``first_id`` of a stream that starts again."""
        return self._next_id

    def update(self, detections: Detections, at_s: float | None = None) -> NDArray[np.int64]:
        """Each detection's track id, in the same order; -1 for one that is seen for the first time. To be called for
        frames without detections, too.

        ``at_s`` is when the frame was captured: objects are expected further on after dropped frames. Without it, or
        where the clock was set back, one frame after the last one.
        """
        import supervision

        self._advance(at_s)
        n = len(detections)
        tracked = self._library.update(
            # The library gives them back in another order. It looks at no class, so their places travel as that.
            supervision.Detections(detections.xyxy, confidence=detections.confidence, class_id=np.arange(n)),
            timestamp=self._clock_s,
        )
        ids = np.full(n, -1, np.int64)  # (n,)
        ids[tracked.class_id] = np.where(tracked.tracker_id >= 0, tracked.tracker_id + self._first_id, -1)
        self._next_id = max(self._next_id, int(ids.max(initial=-1)) + 1)
        return ids

    def _advance(self, at_s: float | None) -> None:
        passed_s = 0.0 if at_s is None or self._at_s is None else at_s - self._at_s
        self._clock_s += passed_s if passed_s > 0 else self._frame_s
        self._at_s = at_s
