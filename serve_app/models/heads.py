"""Which detection head an exported model has, known by the shapes and the values of its raw output.

A shape alone does not tell: an RT-DETR of two classes has the shape of YOLO's end-to-end head, and so has a YOLOv5 of
one class. What cannot be told apart for certain is refused: a wrong guess would answer boxes of nonsense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ModelError
from serve_app.types import InputShape

# anchors     (4 + classes, n): centre x, centre y, width, height, scores. YOLOv8, YOLO11 and their relatives.
# rows        (n, 6): left, top, right, bottom, confidence, class id. End to end (YOLOv10, YOLO26), or with NMS inside.
# objectness  (n, 5 + classes): centre x, centre y, width, height, objectness, scores. YOLOv3, YOLOv5 and YOLOv7.
Head = Literal["anchors", "rows", "objectness"]

_STRIDES = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64))  # of the levels that YOLO heads have
_STRIDES_OF_TINY = (16, 32)  # YOLOv3-tiny's and YOLOv4-tiny's, which have objectness
_ANCHORS_PER_CELL = 3  # of heads with objectness, but for YOLOX, which has one
_MOST_ROWS = 300  # of an end-to-end head unless it says otherwise; a grid has as few cells only in tiny pictures
_END_TO_END = {  # what has rows of so many numbers, of which a detection model's have six
    7: "as an end-to-end model's of oriented boxes is, an SSD's, or a YOLOv7's with NMS inside",
    38: "as an end-to-end segmentation model's is",
    57: "as an end-to-end pose model's is",
}
_EXPORT_IT = "export it with Ultralytics as a detection model"
_SHARES_PX = 2.0  # boxes that nowhere reach further are shares of the picture's sides
_ROUNDING = 0.01
_SLACK_PX = 1.0
_LEAST_CONFIDENCE = 0.01  # a request can ask for no less
_LEAST_SCORE = 1e-3  # boxes of lower scores may be anything


def recognise(
    outputs: Sequence[Sequence[int]], labels: Sequence[str], input_shape: InputShape, *, is_end_to_end: bool
) -> Head:
    """Return the head that has outputs of these shapes, for one picture. Raises ModelError with what it is instead.

    ``is_end_to_end``: the file says so.
    """
    shape, *others = outputs
    classes = len(labels)
    if any(len(other) != 5 for other in others):  # YOLOv5 used to export its feature maps, too, which have five
        listed = " and ".join(_written(one) for one in outputs)
        raise ModelError(
            f"the model has {len(outputs)} outputs, {listed}, and a YOLO detection model one: {_EXPORT_IT}"
        )
    if len(shape) == 3 and shape[0] != 1:
        raise ModelError(f"the model answers {shape[0]} pictures for one: export it with batch=1")
    if len(shape) != 3:
        raise ModelError(f"the model's output is {_written(shape)}, {_guess(shape, classes)}: {_EXPORT_IT}")
    _, height, width = shape
    cells = {_cells(input_shape, strides) for strides in _STRIDES}
    has_one_a_cell = height in cells
    has_three_a_cell = height in {_ANCHORS_PER_CELL * n for n in (*cells, _cells(input_shape, _STRIDES_OF_TINY))}
    may_be_grid = height > _MOST_ROWS and (has_one_a_cell or has_three_a_cell)
    if width == 6 and (is_end_to_end or not may_be_grid):
        return "rows"
    if height == 4 + classes and width != 6:
        return "anchors"
    if width == 5 + classes and has_three_a_cell:
        return "objectness"
    raise ModelError(
        f"the model's output is {_written(shape)}, {_guess(shape, classes, in_cells=has_one_a_cell)}: {_EXPORT_IT}"
    )


def _cells(shape: InputShape, strides: Sequence[int]) -> int:
    """Return how many cells the levels of these strides have together."""
    return sum(-(-shape.height_px // stride) * -(-shape.width_px // stride) for stride in strides)


def not_floats() -> ModelError:
    """Return the error for a file whose output is whole numbers: of what scale, only the numbers left out would say."""
    return ModelError(
        "the model's output is neither fp32 nor fp16, as a quantised model's without its last DequantizeLinear, and "
        "what its numbers mean cannot be known: export it with an output in fp32"
    )


def _guess(shape: Sequence[int], classes: int, *, in_cells: bool = False) -> str:
    """Return what has an output of this shape, as a part of a sentence."""
    has_columns = len(shape) == 3 and shape[1] < shape[2]  # one a cell, as the raw heads of every task
    extra = shape[1] - 4 - classes if has_columns else 0
    if len(shape) == 2 and shape[1] == classes:
        return "as a classification model's is"
    if in_cells and shape[2] in (6, 5 + classes):
        return "one row a cell, as YOLOX's and YOLOv6's own exports have, which are not served"
    if len(shape) == 3 and shape[2] == 4 + classes:
        return "boxes in rows, as an RT-DETR's are"
    if extra == 32:
        return "as a segmentation model's is"
    if extra == 1:
        return "as a model's of oriented boxes is"
    if extra > 1 and extra % 3 == 0:
        return "as a pose model's is, or that of other classes than it names"
    if len(shape) == 3 and shape[2] in _END_TO_END and shape[1] <= _MOST_ROWS:
        return _END_TO_END[shape[2]]
    if shape[-1] == 7:
        return "as an SSD's is, or a YOLOv7's with NMS inside"
    return f"which no YOLO detection head has for the {classes} classes that it names"


def _written(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def to_rows(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows that a request can ask for, ``(n, 6)``, of a head with objectness.

    The confidence is the objectness times the best class's score, as YOLOv5's own suppression has it.
    """
    raw = raw[raw[:, 4] > _LEAST_CONFIDENCE]
    scores = raw[:, 5:]
    class_id = scores.argmax(axis=1)
    confidence = raw[:, 4] * scores[np.arange(len(raw)), class_id]
    centre, size = raw[:, :2], raw[:, 2:4] / 2
    return np.column_stack([centre - size, centre + size, confidence, class_id]).astype(np.float32, copy=False)


def check_output(raw: NDArray[np.float32], labels: Sequence[str]) -> None:
    """Raises ModelError if the values of one raw output are not what its shape promises.

    ``raw``: see ``models.tasks.detect``, of any picture. A picture in which nothing at all is found shows nothing.
    """
    if not np.isfinite(raw).all():
        raise ModelError("the model produces NaN or infinite values")
    if raw.shape[1] == 6:
        boxes, scores, class_id = raw[:, :4], raw[:, 4], raw[:, 5]
        if (class_id != np.round(class_id)).any():
            raise ModelError(f"the last column of the model's rows holds no class ids: {_EXPORT_IT}")
        _check_classes(class_id[scores > _LEAST_SCORE], len(labels))
    else:
        boxes, scores = np.concatenate([raw[:2] - raw[2:4] / 2, raw[:2] + raw[2:4] / 2]).T, raw[4:].max(axis=0)
    if (scores < -_ROUNDING).any() or (scores > 1 + _ROUNDING).any():
        raise ModelError(f"the model's scores are not between 0 and 1: {_EXPORT_IT}")
    boxes = boxes[scores > _LEAST_SCORE]
    if boxes.any() and np.abs(boxes).max() <= _SHARES_PX:
        raise ModelError(
            "the model's boxes are shares of the picture's sides, as an RT-DETR's are, and not pixels of its input: "
            "only YOLO models exported by Ultralytics are served"
        )
    inverted = (boxes[:, 2:] - boxes[:, :2] < -_SLACK_PX).any(axis=1)
    if 2 * inverted.sum() > len(boxes):  # a head without limits has a few such boxes, of low scores
        raise ModelError(f"the model's boxes end before they begin: {_EXPORT_IT}")


def _check_classes(class_id: NDArray[np.float32], classes: int) -> None:
    if len(class_id) and not 0 <= class_id.min() <= class_id.max() < classes:
        raise ModelError(
            f"the model answers class {int(class_id.max())}, and names {classes} classes, 0 to {classes - 1}: "
            "export it again with the names of all its classes"
        )
