"""Detection results, with the server's JSON fields and with arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from serve_app.schemas.detect import Detection, DetectResponse, Found
from serve_app.schemas.streams import StreamResult

if TYPE_CHECKING:
    import numpy as np
    import supervision as sv
    from numpy.typing import NDArray


class _Arrays(Found):
    """The detections in one image or frame as arrays of equal length, the most confident first."""

    @property
    def xyxy(self) -> NDArray[np.float32]:
        """The left, top, right and bottom edges of each box, in pixels of the image as a viewer shows it.

        The array has the shape (n, 4).
        """
        import numpy as np

        boxes = [(one.bbox.x1, one.bbox.y1, one.bbox.x2, one.bbox.y2) for one in self.detections]
        return np.array(boxes, np.float32).reshape(-1, 4)

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The confidence of each detection, as an array of the shape (n,)."""
        import numpy as np

        return np.array([one.confidence for one in self.detections], np.float32)

    @property
    def class_id(self) -> NDArray[np.int32]:
        """The class id of each detection, as an array of the shape (n,)."""
        import numpy as np

        return np.array([one.class_id for one in self.detections], np.int32)

    @property
    def labels(self) -> list[str]:
        """The label of each detection."""
        return [one.label for one in self.detections]

    def __len__(self) -> int:
        return len(self.detections)

    def __iter__(self) -> Iterator[Detection]:  # type: ignore[override]  # pydantic iterates over a model's fields
        return iter(self.detections)

    def to_supervision(self) -> sv.Detections:
        """Return supervision's Detections, with the labels in ``data["class_name"]``.

        Raise ImportError if supervision is not installed.
        """
        try:
            import supervision as sv
        except ImportError as exc:
            raise ImportError("to_supervision needs the package supervision; run pip install supervision") from exc
        import numpy as np

        return sv.Detections(
            xyxy=self.xyxy,
            confidence=self.confidence,
            class_id=self.class_id,
            tracker_id=self._tracker_id(),
            data={"class_name": np.array(self.labels, dtype=np.str_)},
        )

    def _tracker_id(self) -> NDArray[np.int32] | None:
        return None


class DetectResult(DetectResponse, _Arrays):
    """The detections in one image, as JSON fields and as arrays."""


class FrameResult(StreamResult, _Arrays):
    """The detections in one frame of a stream, as JSON fields and as arrays."""

    @property
    def track_id(self) -> NDArray[np.int32]:
        """The track id of each detection, or -1 if the detection has none, as an array of the shape (n,)."""
        import numpy as np

        return np.array([-1 if one.track_id is None else one.track_id for one in self.detections], np.int32)

    def _tracker_id(self) -> NDArray[np.int32] | None:
        ids = self.track_id
        return ids if (ids >= 0).any() else None
