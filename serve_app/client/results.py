"""Detection results, with the server's JSON fields and with arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from serve_app.detections import Rle
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

    @property
    def segments(self) -> list[list[NDArray[np.float32]]] | None:
        """The outer outlines of each object's mask, as arrays of the shape (points, 2), in pixels of the image.

        None if the model does not segment, or if the request asked for RLEs.
        """
        import numpy as np

        found = [one.segments for one in self.detections if one.segments is not None]
        return [[np.array(ring, np.float32) for ring in rings] for rings in found] or None

    @property
    def masks(self) -> NDArray[np.bool_] | None:
        """The mask of each object, as an array of the shape (n, height, width), or None if the model does not segment.

        Masks that came as outlines have no holes.
        """
        if not any(one.segments is not None or one.mask is not None for one in self.detections):
            return None
        import numpy as np

        from serve_app.outlines import mask_of_rings, mask_of_rle

        masks = np.zeros((len(self.detections), self.image.height, self.image.width), np.bool_)
        for one, pixels in zip(self.detections, masks, strict=True):
            if one.mask is not None:
                height, width = one.mask.size
                mask = mask_of_rle(Rle(height, width, one.mask.counts))
            else:
                mask = mask_of_rings([[list(point) for point in ring] for ring in one.segments or []])
            left, top, right, bottom = map(int, mask.xyxy)
            inside = pixels[max(top, 0) : bottom, max(left, 0) : right]
            first_row, first_column = max(-top, 0), max(-left, 0)
            inside |= mask.bits[first_row : first_row + len(inside), first_column : first_column + inside.shape[1]]
        return masks

    @property
    def keypoints(self) -> NDArray[np.float32] | None:
        """The keypoints of each object, as an array of the shape (n, k, 3): x, y and confidence.

        None if the model finds no keypoints. ``keypoint_names`` has their names.
        """
        import numpy as np

        found = [one.keypoints for one in self.detections if one.keypoints is not None]
        return np.array(found, np.float32) if found else None

    @property
    def obb(self) -> NDArray[np.float32] | None:
        """The corners of each rotated box, as an array of the shape (n, 4, 2), in the order of ``xyxyxyxy``.

        None if the boxes are not rotated. ``detections`` has their angles.
        """
        import numpy as np

        found = [list(one.obb.model_dump().values()) for one in self.detections if one.obb is not None]
        return np.array(found, np.float32).reshape(-1, 4, 2) if found else None

    def __len__(self) -> int:
        return len(self.detections)

    def __iter__(self) -> Iterator[Detection]:  # type: ignore[override]  # pydantic iterates over a model's fields
        return iter(self.detections)

    def to_supervision(self) -> sv.Detections:
        """Return supervision's Detections, with the labels in ``data["class_name"]``.

        They have the masks of a model that segments, and the corners of rotated boxes in ``data["xyxyxyxy"]``. Raise
        ImportError if supervision is not installed.
        """
        sv = _supervision("to_supervision")
        import numpy as np

        corners = self.obb
        return sv.Detections(
            xyxy=self.xyxy,
            mask=self.masks,
            confidence=self.confidence,
            class_id=self.class_id,
            tracker_id=self._tracker_id(),
            data={"class_name": np.array(self.labels, dtype=np.str_)}
            | ({} if corners is None else {"xyxyxyxy": corners}),
        )

    def to_supervision_keypoints(self) -> sv.KeyPoints:
        """Return supervision's KeyPoints, with the labels in ``data["class_name"]``.

        They are empty if the model finds no keypoints. Raise ImportError if supervision is not installed.
        """
        sv = _supervision("to_supervision_keypoints")
        import numpy as np

        found = self.keypoints
        if found is None:
            return sv.KeyPoints.empty()
        labels = np.array(self.labels, dtype=np.str_)
        return sv.KeyPoints(found[..., :2], self.class_id, found[..., 2], data={"class_name": labels})

    def _tracker_id(self) -> NDArray[np.int32] | None:
        return None


def _supervision(method: str) -> Any:
    try:
        import supervision
    except ImportError as exc:
        raise ImportError(f"{method} needs the package supervision; run pip install supervision") from exc
    return supervision


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
