"""Statuses of streams."""

from __future__ import annotations

from typing import Any

from serve_app.schemas.detect import Box, ImageSize, TimingMs
from serve_app.schemas.streams import StreamResult, StreamStatus, TrackedDetection


def status_of(*labels: str, **fields: Any) -> StreamStatus:
    """Return the status of the running stream ``lot``, whose latest frame has an object for each label."""
    found = [
        TrackedDetection(label=label, class_id=0, confidence=0.9, bbox=Box(x1=0, y1=0, x2=1, y2=1)) for label in labels
    ]
    latest = StreamResult(
        count=len(found),
        detections=found,
        image=ImageSize(width=64, height=48),
        model="m",
        timing_ms=TimingMs(decode=1, queue=1, inference=1, postprocess=1, total=4),
        batch_size=1,
        stream_id="lot",
        frame_id=7,
        captured_at_s=1_700_000_000.5,
        age_s=0.004,
    )
    known: dict[str, Any] = {"state": "running", "source": "rtsp://camera/1", "policy": "drop_oldest", "latest": latest}
    return StreamStatus(stream_id="lot", **known | fields)
