from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from ultralytics.utils.metrics import batch_probiou
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import regularize_rboxes, xywhr2xyxyxyxy

from serve_app.models.engines.device import to_rows
from serve_app.models.tasks import to_detections
from serve_app.models.tasks.suppression import probiou
from serve_app.types import DetectOptions
from tests.support.raw_outputs import CLASSES, crowded, info_of

INFO = info_of("obb")


def raw_output(seed: int, *, anchors: int = 900, turns: float = 1.0) -> np.ndarray:
    angle = np.random.default_rng(seed).uniform(-math.pi, math.pi, (1, anchors)) * turns
    return crowded(seed, extras=angle.astype(np.float32), anchors=anchors)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("layout", ["anchors", "rows"])
@pytest.mark.parametrize(
    "options",
    [
        DetectOptions(0.3, 0.7, 300),
        DetectOptions(0.05, 0.45, 300),
        DetectOptions(0.3, 0.01, 300),
        DetectOptions(0.3, 1.0, 300),
        DetectOptions(0.3, 0.7, 5),
        DetectOptions(0.3, 0.7, 300, class_ids=(1, 4)),
        DetectOptions(0.3, 0.5, 300, agnostic_nms=True),
        DetectOptions(0.999, 0.7, 300),
    ],
    ids=str,
)
def test_the_rotated_boxes_are_those_of_ultralytics(seed: int, layout: str, options: DetectOptions) -> None:
    raw = raw_output(seed)
    (theirs,) = non_max_suppression(
        torch.from_numpy(raw)[None],
        options.confidence,
        options.iou,
        classes=None if options.class_ids is None else list(options.class_ids),
        agnostic=options.agnostic_nms,
        max_det=options.max_detections,
        nc=CLASSES,
        rotated=True,
    )
    if layout == "rows":
        raw = to_rows(torch.from_numpy(raw)[None], CLASSES, rotated=True)[0].numpy()
    found = to_detections((raw,), INFO, options)
    assert found.rotated is not None
    assert len(found) == len(theirs)
    expected = regularize_rboxes(torch.cat([theirs[:, :4], theirs[:, 6:]], 1)).numpy()
    np.testing.assert_allclose(found.rotated, expected, atol=1e-3)
    assert found.class_id.tolist() == theirs[:, 5].tolist()


def test_the_angle_is_at_least_0_and_less_than_a_quarter_turn() -> None:
    found = to_detections((raw_output(0, turns=20),), INFO, DetectOptions(0.1, 0.7, 300))
    assert found.rotated is not None
    assert 0 <= found.rotated[:, 4].min() < 0.1
    assert 1.5 < found.rotated[:, 4].max() < math.pi / 2


def test_the_upright_box_is_the_hull_of_the_corners() -> None:
    found = to_detections((raw_output(0),), INFO, DetectOptions(0.3, 0.7, 300))
    assert found.rotated is not None
    corners = xywhr2xyxyxyxy(torch.from_numpy(found.rotated)).numpy()
    np.testing.assert_allclose(found.xyxy, np.concatenate([corners.min(1), corners.max(1)], axis=1), atol=1e-3)


def test_the_iou_of_rotated_boxes_is_that_of_ultralytics() -> None:
    boxes = to_detections((raw_output(3),), INFO, DetectOptions(0.1, 1.0, 300)).rotated
    assert boxes is not None
    pairs = [(one, other) for one in boxes for other in boxes]
    ours = probiou(*(np.stack(side) for side in zip(*pairs, strict=True)))
    np.testing.assert_allclose(ours.reshape(len(boxes), -1), batch_probiou(boxes, boxes), atol=1e-4)
    assert (ours > 0.7).sum() > len(boxes)


def test_many_boxes_at_one_place_are_one_object() -> None:
    raw = raw_output(0, anchors=3000, turns=0)
    raw[:4] = np.array([300, 300, 80, 40])[:, None]
    found = to_detections((raw,), INFO, DetectOptions(0.01, 0.7, 300, agnostic_nms=True))
    assert len(found) == 1
    assert cv2.rotatedRectangleIntersection(((300, 300), (80, 40), 0), ((300, 300), (80, 40), 0))[0] == 2
