"""Tracking of objects. The detections of the same object in successive frames get the same track id.

The algorithm is ByteTrack (Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV
2022), as implemented in Roboflow's library `trackers`. A Kalman filter predicts the next box of each object. Each
detected box is then assigned to the prediction that it overlaps most. The classes of objects are ignored.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Detections
from serve_app.errors import StartError

_LOST_FRAMES = 30  # a track survives 1 s without a detection (30 frames at 30 fps), as in the paper
_MIN_LOST_FRAMES = 3  # in slow streams, tracks must survive a missed detection and late frames


class Tracker:
    """Assigns track ids to the detections of one stream."""

    def __init__(self, fps: float, first_id: int = 1) -> None:
        """Prepare tracking at ``fps`` frames per second. Raise StartError if the library is not installed."""
        try:
            # We import the library here, because the import takes 76 MB and 1.7 s, and most streams do not need it.
            from trackers import ByteTrackTracker
        except ImportError as exc:
            raise StartError("tracking is not installed; run: pip install 'sightline[tracking]'") from exc
        self._frame_s = 1 / fps
        self._first_id = first_id
        self._next_id = first_id
        self._clock_s = 0.0
        self._last_at_s: float | None = None
        # We regard every detection above the detector's threshold as an object, so both thresholds of the library are
        # 0. Then every detection may start a track (track_activation_threshold) or continue one
        # (high_conf_det_threshold). As in the paper, an object gets its id after detections in two frames in a row.
        self._library = ByteTrackTracker(
            frame_rate=fps,
            # The library expects this number for 30 fps, and scales it to ``frame_rate``.
            lost_track_buffer=max(_LOST_FRAMES, math.ceil(_MIN_LOST_FRAMES * 30 / fps)),
            track_activation_threshold=0.0,
            high_conf_det_threshold=0.0,
            minimum_consecutive_frames=2,
        )

    @property
    def next_id(self) -> int:
        """The id that the next new object gets. Pass it as ``first_id`` after a restart of the stream."""
        return self._next_id

    def update(self, detections: Detections, at_s: float | None = None) -> NDArray[np.int64]:
        """Return the track id of each detection, in the same order. It is -1 for an object that has no track yet.

        Call this for frames without detections, too. ``at_s`` is the frame's capture time. The tracker uses it to
        predict how far objects moved during dropped frames. If ``at_s`` is None or earlier than in the last call, the
        tracker assumes that one frame interval has passed.
        """
        import supervision

        self._advance(at_s)
        n = len(detections)
        tracked = self._library.update(
            # The library reorders the detections. We pass the index of each detection as its class id, because the
            # library ignores class ids.
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
