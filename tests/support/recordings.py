"""Helpers for tests of recordings."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.detections import Detections
from serve_app.schemas.recording import ClipNotice
from serve_app.schemas.streams import Recording
from serve_app.streams.outputs.recorder import Recorder

STARTED_AT_S = 1_700_000_000.0
GREY = np.full((48, 64, 3), 90, np.uint8)


class Recorded:
    """A recorder, and the notices that it has sent about its clips."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.clips: list[ClipNotice] = []
        self.recorder = Recorder(Recording(**{"max_fps": 30} | fields), folder, on_clip=self.clips.append)

    def show(self, at_s: float, *labels: str, pixels: np.ndarray = GREY) -> None:
        """Record a frame with these objects, and wait until the recorder has taken the frame.

        ``at_s`` is the frame's time in seconds, counted from ``STARTED_AT_S``.
        """
        n = len(labels)
        boxes = np.tile(np.array([[10, 20, 40, 40]], np.float32), (n, 1))
        found = Detections(boxes, np.full(n, 0.9, np.float32), np.zeros(n, np.int32), labels)
        self.recorder.put(pixels, found, STARTED_AT_S + at_s)
        while not self.recorder._waiting.empty():
            time.sleep(0.001)

    def close(self) -> list[ClipNotice]:
        """Close the recorder, and return the notices about finished clips."""
        self.recorder.close(10)
        assert not self.recorder._thread.is_alive()
        return [clip for clip in self.clips if clip.change == "finished"]
