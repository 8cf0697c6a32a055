from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import process_mask

from serve_app.detections import Detections
from serve_app.models.engines import RawOutput
from serve_app.models.engines.device import to_rows
from serve_app.models.tasks import to_detections
from serve_app.types import DetectOptions
from tests.support.raw_outputs import CLASSES, SIDE_PX, crowded, info_of

OPTIONS = DetectOptions(0.3, 0.7, 300)
PROTOTYPES = 32


def raw_output(seed: int, *, anchors: int = 900) -> RawOutput:
    """Return candidates and smooth prototypes, so that masks have both large parts and small ones."""
    rng = np.random.default_rng(seed)
    coefficients = rng.normal(0, 1, (PROTOTYPES, anchors)).astype(np.float32)
    coarse = torch.from_numpy(rng.normal(0, 1, (1, PROTOTYPES, 20, 20)).astype(np.float32))
    prototypes = torch.nn.functional.interpolate(coarse, (SIDE_PX // 4, SIDE_PX // 4), mode="bilinear")
    return crowded(seed, extras=coefficients, anchors=anchors), prototypes[0].numpy()


def whole(found: Detections) -> NDArray[np.bool_]:
    """Return the masks in the whole model input, ``(n, height, width)``."""
    assert found.masks is not None
    masks = np.zeros((len(found), SIDE_PX, SIDE_PX), bool)
    for mask, one in zip(found.masks, masks, strict=True):
        left, top, right, bottom = (int(side) for side in mask.xyxy)
        one[top:bottom, left:right] = mask.bits
    return masks


@pytest.mark.parametrize("seed", range(4))
def test_the_masks_are_those_of_ultralytics(seed: int) -> None:
    candidates, prototypes = raw = raw_output(seed)
    (theirs,) = non_max_suppression(torch.from_numpy(candidates)[None], 0.3, 0.7, max_det=300, nc=CLASSES)
    masks = process_mask(torch.from_numpy(prototypes), theirs[:, 6:], theirs[:, :4], (SIDE_PX, SIDE_PX), upsample=True)
    found = to_detections(raw, info_of("segment"), OPTIONS)
    expected = masks.numpy() > 0
    is_kept = expected.any((1, 2))
    assert len(found) == is_kept.sum() > 50
    np.testing.assert_allclose(found.xyxy, theirs[:, :4][is_kept], atol=1e-3)
    ours = whole(found)
    shared, union = (ours & expected[is_kept]).sum((1, 2)), (ours | expected[is_kept]).sum((1, 2))
    assert (shared / union).min() >= 0.99


def test_a_mask_at_the_edge_of_the_image_is_cut_off_there() -> None:
    candidates, prototypes = raw_output(0, anchors=900)
    candidates[:2, 0], candidates[2:4, 0], candidates[4, 0] = (2, 639), (30, 20), 0.99
    prototypes = np.abs(prototypes)
    candidates[4 + CLASSES :] = 1
    found = to_detections((candidates, prototypes), info_of("segment"), OPTIONS)
    assert found.masks is not None
    assert found.masks[0].xyxy == (0, 629, 17, 640)
    assert found.masks[0].bits.shape == (11, 17)
    assert found.masks[0].bits.all()


def test_an_object_with_an_empty_mask_is_left_out() -> None:
    candidates, prototypes = raw_output(0)
    candidates[4 + CLASSES :] = -1
    found = to_detections((candidates, np.abs(prototypes)), info_of("segment"), OPTIONS)
    assert len(found) == 0
    assert found.masks == ()


def test_an_image_without_objects_has_no_masks() -> None:
    raw = np.zeros((4 + CLASSES + PROTOTYPES, 100), np.float32), np.zeros((PROTOTYPES, 160, 160), np.float32)
    assert to_detections(raw, info_of("segment"), OPTIONS).masks == ()


def test_rows_give_the_masks_of_anchors() -> None:
    """An end-to-end head returns rows, and so do the engines for GPUs."""
    candidates, prototypes = raw = raw_output(1)
    rows = to_rows(torch.from_numpy(candidates)[None], CLASSES)[0].numpy()
    assert rows.shape == (900, 6 + PROTOTYPES)
    some = to_detections(raw, info_of("segment"), OPTIONS)
    others = to_detections((rows, prototypes), info_of("segment"), OPTIONS)
    np.testing.assert_allclose(others.xyxy, some.xyxy, atol=1e-3)
    assert (whole(some) != whole(others)).mean() < 1e-4
    end_to_end = to_detections((rows[:300], prototypes), info_of("segment", end_to_end=True), OPTIONS)
    assert len(end_to_end) > 50
