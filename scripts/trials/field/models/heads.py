"""Cases of detection heads. Each model must be served correctly, or refused with an error that names its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from scripts.trials.field.case import Case
from scripts.trials.field.models.constant import (
    BOX,
    CONFIDENCE,
    SIDE_PX,
    anchors,
    objectness,
    rows,
    save,
    save_folder,
    save_integers,
)
from scripts.trials.field.models.verdicts import CPU_ENGINES, EngineName, Make, Problem, refused, served
from serve_app.config import ModelArgs
from serve_app.models.load import load
from serve_app.types import Suppression

Array = NDArray[np.float32]

_SIDES_640 = (1, 3, 640, 640)
_CELLS_640 = 8400


def _onnx(*outputs: Array, metadata: Mapping[str, str] | None = None, **options: object) -> Make:
    return lambda folder: save(folder / "constant.onnx", *outputs, metadata=metadata, **options)  # type: ignore[arg-type]


def _integers(dtype: int) -> Make:
    return lambda folder: save_integers(folder / "constant.onnx", dtype)


def _suppresses(make: Make, expected: Suppression, engines: Sequence[EngineName] = CPU_ENGINES) -> Problem:
    """Return a function that checks that each engine reports ``expected`` as the model's suppression.

    The suppression is the way in which overlapping boxes are removed.
    """

    def problem(_: str) -> str | None:
        for engine in engines:
            with TemporaryDirectory() as folder:
                info = load(ModelArgs(weights=make(Path(folder)), engine=engine, threads=1), has_gpu=False).info
            if info.suppression != expected:
                return f"{engine}: suppression is {info.suppression!r}, and should be {expected!r}"
        return None

    return problem


def _shares(count: int = 300, columns: int = 6) -> Array:
    """Return an RT-DETR output with one object: centre and size as fractions of the image, and then scores."""
    output = np.zeros((1, count, columns), np.float32)
    output[0, 0, :5] = 0.5, 0.5, 0.4, 0.2, CONFIDENCE
    return output


def _of(*shape: int) -> Array:
    return np.full(shape, 0.5, np.float32)


def _transposed(output: Array) -> Array:
    return np.ascontiguousarray(output.swapaxes(1, 2))


def _logits() -> Array:
    output = anchors()
    output[:, 4:] -= 4
    output[0, 5, 0] = 6.0
    return output


def _unsorted() -> Array:
    output = rows()
    output[0, 3] = output[0, 0]
    output[0, 0] = (*BOX, 0.3, 0)
    return output


_OF_COCO = str(["a"] * 80)
_IS_RTDETR = "RT-DETR"
_NMS = {"args": "{'batch': 1, 'nms': True, 'simplify': True}"}
_HEADS: dict[str, Problem] = {
    "YOLOv8's raw head": served(_onnx(anchors())),
    "YOLOv10's and YOLO26's end-to-end head": served(_onnx(rows(), metadata={"end2end": "True"})),
    "an end-to-end head of few rows": served(_onnx(rows(count=84), metadata={"end2end": "True"})),
    "an end-to-end head of 1,000 rows": served(_onnx(rows(count=1000))),
    "rows in another order": served(_onnx(_unsorted())),
    "YOLOv5's and YOLOv7's, with objectness": served(_onnx(objectness())),
    "YOLOv5's of one class, which has six columns as well": served(
        _onnx(objectness(classes=1, class_id=0, count=3 * _CELLS_640), names="['car']", sides=_SIDES_640)
    ),
    "YOLOv3-tiny's, of strides 16 and 32": served(
        _onnx(objectness(classes=80, count=6000), names=str(["person", "car", *"x" * 78]), sides=_SIDES_640)
    ),
    "YOLOv3-tiny's of one class": served(
        _onnx(objectness(classes=1, class_id=0, count=6000), names="['car']", sides=_SIDES_640)
    ),
    "YOLOv3-tiny's of a small image": served(_onnx(objectness(count=3 * 20))),
    "YOLOv5's with additional outputs for its feature maps": served(
        _onnx(objectness(), _of(1, 3, 8, 8, 7), _of(1, 3, 4, 4, 7), _of(1, 3, 2, 2, 7))
    ),
    "RT-DETR by the head's name": refused(_onnx(_shares(), metadata={"head": "RTDETRDecoder"}), _IS_RTDETR),
    "RT-DETR by its description": refused(
        _onnx(_shares(), metadata={"description": "Ultralytics rtdetr-l model trained on coco.yaml"}), _IS_RTDETR
    ),
    "RT-DETR by another spelling of its name": refused(
        _onnx(_shares(), metadata={"description": "Ultralytics RT-DETR-l model"}), _IS_RTDETR
    ),
    "a YOLO whose data set is named after RT-DETR": served(
        _onnx(
            anchors(),
            metadata={"description": "Ultralytics YOLO11n model trained on /data/rt-detr-compare/data.yaml"},
        )
    ),
    "a task that is null": served(_onnx(anchors(), metadata={"task": "null"})),
    "a folder whose task is empty": served(
        lambda folder: save_folder(folder / "model", anchors(), metadata="names: [person, car]\ntask:\n"),
        engines=["openvino"],
    ),
    "RT-DETR by its boxes alone": refused(_onnx(_shares()), _IS_RTDETR),
    "RT-DETR as a folder": refused(
        lambda folder: save_folder(
            folder / "constant_openvino_model", _shares(), metadata="task: detect\nhead: RTDETRDecoder\nnames: [a, b]\n"
        ),
        _IS_RTDETR,
        engines=["openvino"],
    ),
    "RT-DETR with a score for each class": refused(_onnx(_shares(columns=84), names=str(["a"] * 80)), _IS_RTDETR),
    "RT-DETR of two classes, by older exporters": refused(_onnx(_shares()), _IS_RTDETR),
    "boxes as fractions of the sides, from TensorFlow": refused(
        _onnx(anchors() * np.array([1 / SIDE_PX] * 4 + [1, 1], np.float32)[:, None]), "fractions of the image's sides"
    ),
    "YOLOX": refused(_onnx(_of(1, _CELLS_640, 7), sides=_SIDES_640), "YOLOX"),
    "YOLOX of one class": refused(_onnx(_of(1, _CELLS_640, 6), names="['a']", sides=_SIDES_640), "YOLOX"),
    "YOLOv6's own export": refused(
        _onnx(objectness(classes=80, count=_CELLS_640), names=str(["a"] * 80), sides=_SIDES_640), "YOLOX and YOLOv6"
    ),
    "boxes, scores and labels in rows, not suppressed": refused(
        _onnx(rows(count=_CELLS_640), sides=_SIDES_640), "one row per cell"
    ),
    "YOLO-NAS: boxes and scores apart": refused(_onnx(_of(1, 84, 4), _of(1, 84, 2)), "has 2 outputs"),
    "YOLO-NAS with NMS inside": refused(_onnx(_of(5, 7)), "the model's output is 5x7"),
    "YOLOv7 with NMS inside": refused(_onnx(_of(1, 100, 7)), "SSD|YOLOv7"),
    "the raw head, transposed": refused(_onnx(_transposed(anchors(3)), names="['a', 'b', 'c']"), "boxes in rows"),
    "the raw head of two classes, transposed": refused(_onnx(_transposed(anchors())), "no class ids"),
    "scores before the sigmoid": refused(_onnx(_logits()), "not between 0 and 1"),
    "corners where centre and size should be": refused(_onnx(rows(box=(40, 48, 8, 16))), "right edge left of"),
    "rows without class ids": refused(_onnx(rows(class_id=0.4)), "no class ids"),
    "not a number": refused(_onnx(anchors() * np.float32(np.nan)), "NaN or infinite"),
    "a task that is not supported": refused(_onnx(anchors(), metadata={"task": "depth"}), "task is 'depth'"),
    "segmentation without prototypes": refused(
        _onnx(anchors(34), metadata={"task": "segment"}),
        "a segmentation model has two, the candidates and the prototypes",
    ),
    "segmentation with prototypes of another size": refused(
        _onnx(anchors(34), _of(1, 32, 8, 8), metadata={"task": "segment"}), "second output is 1x32x8x8, .* 1xNx16x16"
    ),
    "segmentation with too few prototypes": refused(
        _onnx(anchors(34), _of(1, 16, 16, 16), metadata={"task": "segment"}), "returns 1x22xN or 1xNx22"
    ),
    "segmentation that does not say so": refused(_onnx(anchors(34), _of(1, 32, 16, 16)), "has 2 outputs"),
    "segmentation as a raw head alone": refused(_onnx(anchors(34)), "segmentation"),
    "pose": served(_onnx(anchors(53), metadata={"task": "pose", "kpt_shape": "[17, 3]"})),
    "pose without the number of keypoints": refused(
        _onnx(anchors(53), metadata={"task": "pose"}), "how many keypoints"
    ),
    "pose with another number of keypoints": refused(
        _onnx(anchors(53), metadata={"task": "pose", "kpt_shape": "[5, 3]"}), "and 5 keypoints returns 1x21xN or 1xNx21"
    ),
    "pose that does not say so": refused(_onnx(anchors(53)), "a pose model"),
    "segmentation, end to end": refused(_onnx(_of(1, 300, 38), names=_OF_COCO), "end-to-end segmentation model"),
    "pose, end to end": refused(_onnx(_of(1, 300, 57)), "end-to-end pose model"),
    "oriented boxes, end to end": refused(_onnx(_of(1, 300, 7), names=_OF_COCO), "end-to-end model with oriented"),
    "RT-DETR that names too few classes": refused(_onnx(_shares(columns=84)), "which fits no YOLO detection head"),
    "oriented boxes": served(_onnx(anchors(3), metadata={"task": "obb"})),
    "oriented boxes without an angle": refused(_onnx(anchors(), metadata={"task": "obb"}), "returns 1x7xN or 1xNx7"),
    "oriented boxes that do not say so": refused(_onnx(anchors(3)), "oriented boxes"),
    "classification with scores instead of probabilities": refused(
        _onnx(_of(1, 4), names="['a', 'b', 'c', 'd']", metadata={"task": "classify"}),
        "the sum 2, but they must .* have the sum 1",
    ),
    "classification with numbers below 0": refused(
        _onnx(np.array([[3, -2]], np.float32), metadata={"task": "classify"}),
        "between -2 and 3 and have the sum 1, but",
    ),
    "classification of more classes than are named": refused(
        _onnx(_of(1, 3), metadata={"task": "classify"}), "is 1x3, but a classification model with 2 classes"
    ),
    "classification that does not say so": refused(_onnx(_of(1, 2)), "classification"),
    "SSD": refused(_onnx(_of(1, 1, 100, 7)), "SSD"),
    "SSD of TensorFlow: four outputs, integers": refused(
        _onnx(_of(1, 10, 4), _of(1, 10), _of(1, 10), _of(1), sides=(1, 3, 64, 64), dtype=TensorProto.UINT8),
        "neither fp32 nor fp16",
    ),
    "no output of a known form": refused(_onnx(_of(1, 3, 8, 8, 7)), "the model's output is 1x3x8x8x7"),
}
_SUPPRESSION: dict[str, Problem] = {
    "the raw head: by the request": _suppresses(_onnx(anchors()), "by_request"),
    "objectness: by the request": _suppresses(_onnx(objectness()), "by_request"),
    "end to end: not needed": _suppresses(_onnx(rows(), metadata={"end2end": "True"}), "not_needed"),
    "nms=True in an ONNX file": _suppresses(_onnx(rows(), metadata=_NMS), "in_file"),
    "nms=True as JSON": _suppresses(_onnx(rows(), metadata={"args": '{"nms": true}'}), "in_file"),
    "nms=True in a folder": _suppresses(
        lambda folder: save_folder(folder / "model", rows(), metadata="names: [a, b]\nargs: {nms: true}\n"),
        "in_file",
        ["openvino"],
    ),
    "nms=False": _suppresses(_onnx(rows(), metadata={"args": "{'nms': False}"}), "not_needed"),
}
_WHOLE_NUMBERS: dict[str, Problem] = {
    name: refused(_integers(dtype), "output is neither fp32 nor fp16")
    for name, dtype in {
        "uint8": TensorProto.UINT8,
        "int8": TensorProto.INT8,
        "int32": TensorProto.INT32,
        "int64": TensorProto.INT64,
        "bool": TensorProto.BOOL,
    }.items()
}
CASES = (
    *(Case("outputs of integers", member, problem) for member, problem in _WHOLE_NUMBERS.items()),
    *(Case("heads", member, problem) for member, problem in _HEADS.items()),
    *(Case("suppression, as GET /models reports it", member, problem) for member, problem in _SUPPRESSION.items()),
)
