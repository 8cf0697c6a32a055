from __future__ import annotations

import numpy as np
import pytest
import torch
from ultralytics.utils.ops import scale_boxes, scale_coords, xywhr2xyxyxyxy

from serve_app.detections import Detections, Mask
from serve_app.images.letterbox import fit
from serve_app.images.map_back import to_picture
from serve_app.types import InputShape, Letterbox

SHAPES = [(640, 480, InputShape(640, 640)), (333, 1000, InputShape(640, 480)), (50, 40, InputShape(64, 64))]


def found(fitted: Letterbox, **further: object) -> Detections:
    """Return objects whose boxes lie partly outside the image."""
    sides = np.random.default_rng(0).uniform(-50, 690, (20, 4)).astype(np.float32)
    return Detections(sides, np.ones(20, np.float32), np.zeros(20, np.int32), **further)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width_px", "height_px", "shape"), SHAPES)
def test_keypoints_are_mapped_and_clipped_as_ultralytics_does(width_px: int, height_px: int, shape: InputShape) -> None:
    fitted = fit(width_px, height_px, shape)
    keypoints = np.random.default_rng(1).uniform(-50, 690, (20, 17, 3)).astype(np.float32)
    ours = to_picture(found(fitted, keypoints=keypoints), fitted).keypoints
    assert ours is not None
    expected = scale_coords(tuple(shape), torch.from_numpy(keypoints.copy()), (height_px, width_px))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("width_px", "height_px", "shape"), SHAPES)
def test_rotated_boxes_are_mapped_as_ultralytics_does(width_px: int, height_px: int, shape: InputShape) -> None:
    fitted = fit(width_px, height_px, shape)
    rotated = np.random.default_rng(2).uniform(0, 640, (20, 5)).astype(np.float32)
    rotated[:, 4] %= 1.5
    ours = to_picture(found(fitted, rotated=rotated), fitted)
    assert ours.rotated is not None
    expected = torch.from_numpy(rotated.copy())
    scale_boxes(tuple(shape), expected[:, :4], (height_px, width_px), xywh=True)
    np.testing.assert_allclose(ours.rotated, expected, rtol=1e-5, atol=1e-3)
    corners = xywhr2xyxyxyxy(expected).numpy()
    hull = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    np.testing.assert_allclose(ours.xyxy, np.clip(hull, 0, [width_px, height_px] * 2), rtol=1e-4, atol=1e-2)


def test_the_part_of_a_mask_in_the_padding_is_cut_off() -> None:
    fitted = fit(640, 480, InputShape(320, 320))  # 40 px of padding above and below
    bits = np.arange(100 * 60).reshape(100, 60) % 7 < 4
    masks = (Mask(bits, (10, 0, 70, 100)), Mask(bits, (200, 230, 260, 330)), Mask(bits, (0, -70, 60, 30)))
    detections = Detections(np.zeros((3, 4), np.float32), np.ones(3, np.float32), np.zeros(3, np.int32), masks=masks)
    upper, lower, outside = to_picture(detections, fitted).masks or ()
    assert upper.xyxy == (20, 0, 140, 120)
    np.testing.assert_array_equal(upper.bits, bits[40:])
    assert lower.xyxy == (400, 380, 520, 480)
    np.testing.assert_array_equal(lower.bits, bits[:50])
    assert outside.xyxy == (0, 0, 2, 2)
    assert outside.bits.tolist() == [[False]]
