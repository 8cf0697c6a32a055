"""The results for one image: objects with boxes and with what a model's task adds to them, or the image's classes.

The client package imports this module and must work without numpy, so numpy is imported only where an array is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Mask:
    """The pixels of one object, as a bitmap that is stretched over a rectangle of the image.

    The bitmap is in pixels of the model input. A rectangle of its own lets a mask follow its image to another size, and
    the bitmap stays small.
    """

    bits: NDArray[np.bool_]  # (rows, columns): True inside the object; at least one row and one column
    xyxy: tuple[float, float, float, float]  # the rectangle that the bitmap covers: left, top, right, bottom

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle eight pixels as one byte, because masks go from process to process."""
        import numpy as np

        return _unpacked, (np.packbits(self.bits).tobytes(), self.bits.shape, self.xyxy)


def _unpacked(packed: bytes, shape: tuple[int, int], xyxy: tuple[float, float, float, float]) -> Mask:
    import numpy as np

    rows, columns = shape
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=rows * columns)
    return Mask(bits.view(np.bool_).reshape(shape), xyxy)


@dataclass(frozen=True)
class Rle:
    """The mask of one object in a whole image, in COCO's compressed run-length encoding: see ``outlines``."""

    height_px: int  # of the image
    width_px: int
    counts: str


# The outer outlines of one object's mask: each is a list of points [x, y] in pixels of the image.
Rings: TypeAlias = list[list[list[float]]]


@dataclass(frozen=True)
class Ranking:
    """The most probable classes of one image, the most probable first, as arrays of equal length."""

    class_id: NDArray[np.int32]  # (n,)
    confidence: NDArray[np.float32]  # (n,): probabilities
    labels: tuple[str, ...] | None = None  # n labels; None if the labels are not known yet

    def labelled(self, labels: Sequence[str]) -> Ranking:
        """Return the same classes with their labels. ``labels`` are the model's labels by class id."""
        return replace(self, labels=tuple(label_of(class_id, labels) for class_id in self.class_id.tolist()))


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, the most confident first, as arrays of equal length.

    ``masks``, ``keypoints`` and ``rotated`` are None if the model's task does not return them. A model that classifies
    whole images finds no objects, and returns ``classes``.
    """

    xyxy: NDArray[np.float32]  # (n, 4): left, top, right, bottom
    confidence: NDArray[np.float32]  # (n,)
    class_id: NDArray[np.int32]  # (n,)
    labels: tuple[str, ...] | None = None  # n labels; None if the labels are not known yet
    track_id: NDArray[np.int64] | None = None  # (n,), if the stream is tracked; -1 for an object without a track
    masks: tuple[Mask, ...] | None = None  # n masks (task segment)
    keypoints: NDArray[np.float32] | None = None  # (n, k, 3): x, y and confidence of each keypoint (task pose)
    # (n, 5): centre x, centre y, width, height, and the angle in radians as in Ultralytics' ``xywhr`` (task obb). The
    # angle turns the x axis towards the y axis. ``xyxy`` is then the upright hull.
    rotated: NDArray[np.float32] | None = None
    classes: Ranking | None = None  # the classes of the whole image (task classify)
    outlines: tuple[Rings | Rle, ...] | None = None  # n descriptions of the masks, as results have them

    def __post_init__(self) -> None:
        n = len(self.confidence)
        expected = ((n, 4), (n,), (n,))
        actual = (self.xyxy.shape, self.confidence.shape, self.class_id.shape)
        if actual != expected:
            raise ValueError(f"Detections: expected shapes {expected}, got {actual}")
        for name in ("labels", "track_id", "masks", "keypoints", "rotated", "outlines"):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise ValueError(f"Detections: expected {n} {name}, got {len(values)}")

    @classmethod
    def empty(cls) -> Detections:
        """Return detections without any object."""
        import numpy as np

        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), ())

    def labelled(self, labels: tuple[str, ...]) -> Detections:
        """Return the same objects with their labels. ``labels`` are the model's labels by class id."""
        own = tuple(label_of(class_id, labels) for class_id in self.class_id.tolist())
        return replace(self, labels=own, classes=self.classes and self.classes.labelled(labels))

    def select(self, wanted: NDArray[np.bool_] | NDArray[np.intp]) -> Detections:
        """Return the wanted objects, given by a mask or by indices, with all that belongs to them."""
        import numpy as np

        indices = np.arange(len(self))[wanted].tolist()
        return replace(
            self,
            xyxy=self.xyxy[wanted],
            confidence=self.confidence[wanted],
            class_id=self.class_id[wanted],
            labels=None if self.labels is None else tuple(self.labels[index] for index in indices),
            track_id=None if self.track_id is None else self.track_id[wanted],
            masks=None if self.masks is None else tuple(self.masks[index] for index in indices),
            keypoints=None if self.keypoints is None else self.keypoints[wanted],
            rotated=None if self.rotated is None else self.rotated[wanted],
            outlines=None if self.outlines is None else tuple(self.outlines[index] for index in indices),
        )

    @property
    def corners(self) -> NDArray[np.float32] | None:
        """The corners of each rotated box, as an array of the shape (n, 4, 2), or None if boxes are not rotated.

        The arithmetic and the order are those of Ultralytics' ``xywhr2xyxyxyxy``.
        """
        if self.rotated is None:
            return None
        import numpy as np

        x, y, width, height, angle = self.rotated.T
        along = np.stack([width / 2 * np.cos(angle), width / 2 * np.sin(angle)], -1)
        across = np.stack([-height / 2 * np.sin(angle), height / 2 * np.cos(angle)], -1)
        centre = np.stack([x, y], -1)
        corners = [centre + along + across, centre + along - across, centre - along - across, centre - along + across]
        return np.stack(corners, 1)

    @property
    def counted_class_id(self) -> NDArray[np.int32]:
        """The class id of each object. If the model classifies whole images, the id of the most probable class."""
        return self.class_id if self.classes is None else self.classes.class_id[:1]

    @property
    def counted_labels(self) -> tuple[str, ...]:
        """The label of each object. If the model classifies whole images, the label of the most probable class."""
        return (self.labels if self.classes is None else (self.classes.labels or ())[:1]) or ()

    def __len__(self) -> int:
        return len(self.confidence)

    def __iter__(self) -> Iterator[tuple[list[float], float, int]]:
        """Yield each object as Python numbers: its box, confidence and class id."""
        return zip(self.xyxy.tolist(), self.confidence.tolist(), self.class_id.tolist(), strict=True)


def label_of(class_id: int, labels: Sequence[str]) -> str:
    """Return the label of a class id from the model's ``labels``. An id without a label is called ``class N``."""
    return labels[class_id] if 0 <= class_id < len(labels) else f"class {class_id}"
