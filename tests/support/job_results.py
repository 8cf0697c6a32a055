"""Results of a job, as the store has them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from serve_app.detections import Detections
from serve_app.images.outlines import with_outlines
from serve_app.schemas.detect import answer_fields
from serve_app.schemas.jobs import JobFailure, JobResult
from serve_app.types import MaskFormat
from tests.support import tasks


@dataclass
class StoredResults:
    """The results and failures of a job. Each pass reads them again, as the store does."""

    lines: Iterable[dict[str, Any]]
    failed: list[JobFailure] = field(default_factory=list)

    def results(self) -> Iterator[str]:
        return (json.dumps(line, separators=(",", ":"), ensure_ascii=False) for line in self.lines)

    def failures(self) -> list[JobFailure]:
        return self.failed


def line(item: int, name: str, *boxes: tuple[str, int, float, tuple[float, ...]], **more: Any) -> dict[str, Any]:
    """Return one result: an image of 200x100 pixels. A box is its label, class id, confidence and edges."""
    return {
        "job_id": "night",
        "item": item,
        "name": name,
        **more,
        "count": len(boxes),
        "detections": [
            {
                "label": label,
                "class_id": class_id,
                "confidence": confidence,
                "bbox": dict(zip(("x1", "y1", "x2", "y2"), edges, strict=True)),
            }
            for label, class_id, confidence, edges in boxes
        ],
        "image": {"width": 200, "height": 100},
        "model": "yolov8n@3f9c",
    }


def stored(item: int, name: str, found: Detections, mask: MaskFormat = "polygon") -> dict[str, Any]:
    """Return one result with these detections in an image of 200x100 pixels, as a runner stores it."""
    described = with_outlines(found, tasks.WIDTH_PX, tasks.HEIGHT_PX, mask)
    names = ("head", "body", "tail") if found.keypoints is not None and found.keypoints.shape[1] == 3 else ()
    fields = answer_fields(tasks.answer(described, names)) | {"model": "fake@1"}
    result = JobResult(job_id="night", item=item, name=name, **fields)
    parsed: dict[str, Any] = json.loads(result.model_dump_json(exclude_none=True))
    return parsed


def example() -> StoredResults:
    """Return results with all that is unusual: no box, a frame, an id, a gap in the numbers, and a hostile name."""
    return StoredResults(
        [
            line(
                0, "day/a.jpg", ("dog", 16, 0.9, (10.0, 20.0, 60.5, 70.25)), ("cat", 15, 0.5, (0.0, 0.0, 200.0, 100.0))
            ),
            line(1, "day/empty.jpg"),
            line(3, '=1+1,"x"\n.png', ("dog", 16, 0.75, (1.0, 2.0, 3.0, 4.0)), id="mine"),
            line(65_539, "lot.mp4", ("Hütte", 2, 0.25, (0.0, 0.0, 1.0, 1.0)), time_s=12.04),
        ],
        [
            JobFailure(job_id="night", item=2, name="bad.jpg", code="undecodable", detail="the image is truncated"),
            JobFailure(job_id="night", item=9, name="gone.jpg", id="x", code="missing", detail="it is gone"),
        ],
    )
