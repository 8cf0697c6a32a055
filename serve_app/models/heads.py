"""Recognise the head of a model from its metadata, and from the shapes and the values of its raw output.

The shape alone is not enough: an RT-DETR with two classes and a YOLOv5 with one class both have the shape of YOLO's
end-to-end head. Models that cannot be recognised with certainty are refused, because a wrong guess would produce
meaningless boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ModelError
from serve_app.models.engines import RawOutput
from serve_app.models.engines.metadata import Metadata
from serve_app.models.tasks import task_of
from serve_app.models.tasks.segment import PROTOTYPE_PX
from serve_app.types import EngineInfo, InputShape, Task

# Each kind of head has its own layout of the raw output for one image. "Extras" are the further numbers of the task.
# - "anchors", the head of YOLOv8 and YOLO11, returns (4 + classes + extras, n): centre x, centre y, width, height,
#   scores, extras.
# - "rows", the head of YOLOv10 and YOLO26, and of files with built-in NMS, returns (n, 6 + extras): left, top, right,
#   bottom, confidence, class id, extras.
# - "objectness", the head of YOLOv3, YOLOv5 and YOLOv7, returns (n, 5 + classes): centre x, centre y, width,
#   height, objectness, scores.
# - "ranking", the head of classification models, returns (classes,): probabilities.
Head = Literal["anchors", "rows", "objectness", "ranking"]

_STRIDES = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64))  # strides of the levels of YOLO heads
_TINY_STRIDES = (16, 32)  # YOLOv3-tiny and YOLOv4-tiny, which have objectness
_ANCHORS_PER_CELL = 3  # in heads with objectness, except in YOLOX, which has one anchor per cell
# By default, an end-to-end head returns this many rows. Only the grid of a tiny input has so few cells.
_MAX_ROWS = 300
_ROW_LENGTHS = {  # numbers per row -> the kinds of model that have them; a detection model has six numbers
    7: "like that of an end-to-end model with oriented boxes, an SSD, or a YOLOv7 with built-in NMS",
    38: "like that of an end-to-end segmentation model",
    57: "like that of an end-to-end pose model",
}
_KINDS: dict[Task, str] = {
    "detect": "a detection",
    "segment": "a segmentation",
    "pose": "a pose",
    "obb": "an OBB",
    "classify": "a classification",
}
_MAX_FRACTION = 2.0  # if no coordinate is larger, boxes are fractions of the image's sides, not pixels
_ROUNDING = 0.01
_MAX_EXCESS = 0.1  # the sum of many probabilities in fp16 or int8 may differ from 1 by this much
_SLACK_PX = 1.0
_MIN_CONFIDENCE = 0.01  # the lowest threshold that a request may use
_MIN_SCORE = 1e-3  # boxes with lower scores may be meaningless


def recognise(
    outputs: Sequence[Sequence[int]], metadata: Metadata, input_shape: InputShape, *, is_end_to_end: bool
) -> Head:
    """Return the kind of head whose outputs have these shapes for one image.

    ``is_end_to_end``: whether the head is end-to-end according to the metadata. Raise ModelError for any other head.
    The message says what kind of model it seems to be.
    """
    shape, *others = outputs
    classes, hint = len(metadata.labels), _export_hint(metadata.task)
    read = outputs[: metadata.outputs]
    # Older YOLOv5 exports add feature maps, which have five axes.
    if len(read) != metadata.outputs or any(len(other) != 5 for other in outputs[metadata.outputs :]):
        listed = " and ".join(_format_shape(one) for one in outputs)
        count = f"{len(outputs)} outputs, {listed}," if others else f"one output, {listed},"
        expected = "two, the candidates and the prototypes" if metadata.outputs == 2 else "one"
        raise ModelError(f"the model has {count} but {_KINDS[metadata.task]} model has {expected}: {hint}")
    if metadata.task == "classify":
        return _recognise_ranking(shape, classes)
    if len(shape) == 3 and shape[0] != 1:
        raise ModelError(f"the model returns results for {shape[0]} images when given one: export it with batch=1")
    if len(shape) != 3:
        raise ModelError(f"the model's output is {_format_shape(shape)}, {_describe(shape, classes)}: {hint}")
    _, height, width = shape
    cells = {_cells(input_shape, strides) for strides in _STRIDES}
    has_one_per_cell = height in cells
    has_three_per_cell = height in {_ANCHORS_PER_CELL * n for n in (*cells, _cells(input_shape, _TINY_STRIDES))}
    may_be_grid = height > _MAX_ROWS and (has_one_per_cell or has_three_per_cell)
    extras = _extras(metadata, others)
    if metadata.task == "segment":
        _check_prototypes(others[0], input_shape)
    if width == 6 + extras and (is_end_to_end or not may_be_grid):
        return "rows"
    if height == 4 + classes + extras and width != 6 + extras:
        return "anchors"
    if metadata.task == "detect" and width == 5 + classes and has_three_per_cell:
        return "objectness"
    if metadata.task == "detect":
        description = _describe(shape, classes, is_one_per_cell=has_one_per_cell)
        raise ModelError(f"the model's output is {_format_shape(shape)}, {description}: {hint}")
    raise ModelError(
        f"the model's output is {_format_shape(shape)}, but {_KINDS[metadata.task]} model with {classes} classes"
        f"{f' and {len(metadata.keypoints)} keypoints' if metadata.keypoints else ''} returns "
        f"1x{4 + classes + extras}xN or 1xNx{6 + extras}: {hint}"
    )


def _recognise_ranking(shape: Sequence[int], classes: int) -> Head:
    if list(shape) != [1, classes]:
        raise ModelError(
            f"the model's output is {_format_shape(shape)}, but a classification model with {classes} classes "
            f"returns 1x{classes}: {_export_hint('classify')}"
        )
    return "ranking"


def _extras(metadata: Metadata, others: Sequence[Sequence[int]]) -> int:
    """Return how many further numbers the task adds to each candidate. ``others``: the outputs after the first."""
    match metadata.task:
        case "segment":
            return others[0][1] if len(others[0]) == 4 else 0
        case "pose":
            return len(metadata.keypoints) * metadata.numbers_per_keypoint
        case "obb":
            return 1  # the angle
    return 0


def _check_prototypes(shape: Sequence[int], input_shape: InputShape) -> None:
    height, width = input_shape.height_px // PROTOTYPE_PX, input_shape.width_px // PROTOTYPE_PX
    if len(shape) != 4 or list(shape[2:]) != [height, width]:
        raise ModelError(
            f"the model's second output is {_format_shape(shape)}, but the prototypes of a segmentation model are "
            f"1xNx{height}x{width} for an input of {input_shape}: {_export_hint('segment')}"
        )


def _export_hint(task: Task) -> str:
    return f"export it with Ultralytics as {_KINDS[task]} model"


def _cells(shape: InputShape, strides: Sequence[int]) -> int:
    """Return the number of grid cells in all levels with these strides."""
    return sum(-(-shape.height_px // stride) * -(-shape.width_px // stride) for stride in strides)


def integer_output_error() -> ModelError:
    """Return the error for a file with an integer output, whose scale is unknown without the dequantisation."""
    return ModelError(
        "the model's output is neither fp32 nor fp16, so the scale of its numbers is unknown; perhaps the last "
        "DequantizeLinear of a quantised model is missing: export the model with an output in fp32"
    )


def _describe(shape: Sequence[int], classes: int, *, is_one_per_cell: bool = False) -> str:
    """Return a clause that says which kind of model has an output of this shape."""
    has_columns = len(shape) == 3 and shape[1] < shape[2]  # one column per grid cell, as in the raw output of all tasks
    extra = shape[1] - 4 - classes if has_columns else 0
    if len(shape) == 2 and shape[1] == classes:
        return "like that of a classification model"
    if is_one_per_cell and shape[2] in (6, 5 + classes):
        return "with one row per cell, like exports of YOLOX and YOLOv6, which are not supported"
    if len(shape) == 3 and shape[2] == 4 + classes:
        return "with boxes in rows, like that of an RT-DETR"
    if extra == 32:
        return "like that of a segmentation model"
    if extra == 1:
        return "like that of a model with oriented boxes"
    if extra > 1 and extra % 3 == 0:
        return "like that of a pose model, or of a model with more classes than it names"
    if len(shape) == 3 and shape[2] in _ROW_LENGTHS and shape[1] <= _MAX_ROWS:
        return _ROW_LENGTHS[shape[2]]
    if shape[-1] == 7:
        return "like that of an SSD, or a YOLOv7 with built-in NMS"
    return f"which fits no YOLO detection head with the {classes} classes that it names"


def _format_shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def to_rows(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert the output of a head with objectness to rows, ``(n, 6)``.

    Drop boxes whose objectness is at most the lowest confidence threshold that a request may use. The confidence in a
    row is the objectness times the score of the best class, as in YOLOv5's own NMS.
    """
    raw = raw[raw[:, 4] > _MIN_CONFIDENCE]
    scores = raw[:, 5:]
    class_id = scores.argmax(axis=1)
    confidence = raw[:, 4] * scores[np.arange(len(raw)), class_id]
    centre, size = raw[:, :2], raw[:, 2:4] / 2
    return np.column_stack([centre - size, centre + size, confidence, class_id]).astype(np.float32, copy=False)


def check_output(raw: RawOutput, info: EngineInfo) -> None:
    """Raise ModelError if the values of a raw output contradict the kind of head that its shape indicates.

    ``raw`` is the output for any image (see ``models.tasks``). An output without boxes is accepted.
    """
    if not all(np.isfinite(one).all() for one in raw):
        raise ModelError("the model produces NaN or infinite values: export it again, in fp32 if it was fp16")
    if info.task == "classify":
        _check_probabilities(raw[0])
        return
    extras, hint, classes = task_of(info).extras(raw, info), _export_hint(info.task), len(info.labels)
    first = raw[0]
    if first.shape[1] == 6 + extras:
        boxes, scores, class_id = first[:, :4], first[:, 4], first[:, 5]
        if (class_id != np.round(class_id)).any():
            raise ModelError(f"column 6 of the model's output contains no class ids: {hint}")
        _check_classes(class_id[scores > _MIN_SCORE], classes)
        if info.task == "obb":
            boxes = _corners(boxes.T)
    else:
        boxes, scores = _corners(first[:4]), first[4 : 4 + classes].max(axis=0)
    if (scores < -_ROUNDING).any() or (scores > 1 + _ROUNDING).any():
        raise ModelError(f"the model's scores are not between 0 and 1: {hint}")
    boxes = boxes[scores > _MIN_SCORE]
    if boxes.any() and np.abs(boxes).max() <= _MAX_FRACTION:
        raise ModelError(
            "the model's boxes are fractions of the image's sides, like those of an RT-DETR, not pixels of its "
            "input: only YOLO models exported by Ultralytics are supported"
        )
    inverted = (boxes[:, 2:] - boxes[:, :2] < -_SLACK_PX).any(axis=1)
    if 2 * inverted.sum() > len(boxes):  # a correct head may return a few such boxes with low scores
        raise ModelError(
            f"most of the model's boxes have the right edge left of the left edge, or the bottom above the top: {hint}"
        )


def _corners(xywh: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert the columns centre x, centre y, width and height, ``(4, n)``, to the corners of boxes, ``(n, 4)``."""
    return np.concatenate([xywh[:2] - xywh[2:] / 2, xywh[:2] + xywh[2:] / 2]).T


def _check_probabilities(probabilities: NDArray[np.float32]) -> None:
    least, most, total = float(probabilities.min()), float(probabilities.max()), float(probabilities.sum())
    if least < -_ROUNDING or most > 1 + _ROUNDING or abs(total - 1) > _MAX_EXCESS:
        raise ModelError(
            f"the model's probabilities are between {least:.3g} and {most:.3g} and have the sum {total:.3g}, but they "
            f"must be between 0 and 1 and have the sum 1: {_export_hint('classify')}"
        )


def _check_classes(class_id: NDArray[np.float32], classes: int) -> None:
    if len(class_id) and not 0 <= class_id.min() <= class_id.max() < classes:
        raise ModelError(
            f"the model returns class {int(class_id.max())}, but names only {classes} classes, 0 to {classes - 1}: "
            "export it again with the names of all its classes"
        )
