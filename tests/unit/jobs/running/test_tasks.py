"""Jobs whose model segments, finds keypoints or rotated boxes, or classifies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from serve_app.detections import Detections, Mask
from serve_app.images.drawing import draw
from serve_app.jobs.running.stored import detections_of
from serve_app.types import MaskFormat, Pixels
from tests.support import tasks
from tests.support.job_results import StoredResults, stored
from tests.support.job_runners import bench, parsed

pytestmark = pytest.mark.anyio


def drawn(found: Detections) -> Pixels:
    return draw(np.full((tasks.HEIGHT_PX, tasks.WIDTH_PX, 3), 127, np.uint8), found)


@pytest.mark.parametrize(
    ("find", "mask"),
    [
        (tasks.boxed, "polygon"),
        (tasks.segmented, "rle"),
        (tasks.posed, "polygon"),
        (tasks.rotated, "polygon"),
        (tasks.classified, "polygon"),
    ],
    ids=["detect", "segment", "pose", "obb", "classify"],
)
def test_a_stored_result_is_drawn_like_the_detections(find: Callable[[], Detections], mask: MaskFormat) -> None:
    (text,) = StoredResults([stored(0, "a.jpg", find(), mask)]).results()
    difference = cv2.absdiff(drawn(find()), drawn(detections_of(text))).max(axis=2)
    assert (difference > 40).mean() < 0.02  # the edges of a stored mask are not as smooth


def test_a_mask_that_is_stored_as_an_outline_has_no_holes() -> None:
    (text,) = StoredResults([stored(0, "a.jpg", tasks.segmented())]).results()
    masks = detections_of(text).masks
    assert masks is not None
    assert [mask.xyxy for mask in masks] == [(20, 10, 80, 70), (100, 20, 120, 100)]
    assert all(mask.bits.all() for mask in masks)


@pytest.mark.parametrize("kind", ["images", "suspect images", "clip"])
@pytest.mark.parametrize("mask", ["segments", "mask"])
async def test_results_have_masks_and_pictures_show_them(tmp_path: Path, kind: str, mask: str) -> None:
    def segmented(found: Detections) -> Detections:
        left, top, right, bottom = found.xyxy[0].tolist()
        return replace(found, masks=(Mask(np.ones((4, 4), np.bool_), (left, top, right, bottom)),))

    async with bench(tmp_path) as made:
        made.detector.as_task = segmented
        unit = made.clip() if kind == "clip" else made.unit(1, is_suspect=kind != "images")
        detect = {"mask": "rle" if mask == "mask" else "polygon"}
        result = await made.run(unit, outputs=[{"annotated": True}], detect=detect)
        (found,) = parsed(result)[100]["detections"]
        assert found.keys() & {"segments", "mask"} == {mask}
        picture: Any = cv2.imread(str(tmp_path / "jobs" / "night" / "results" / "annotated" / "000000100.jpg"))
        assert np.ptp(picture[picture.shape[0] // 2, picture.shape[1] // 2]) > 20  # the grey image is tinted


async def test_a_job_that_classifies_counts_images_by_their_label(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.detector.as_task = lambda _: tasks.classified()
        result = await made.run(made.unit(2), outputs=[{"annotated": True, "crops": True}])
        assert result.detections == {"dog": 2}
        assert parsed(result)[100]["classes"][0] == {"label": "dog", "class_id": 1, "confidence": 0.8}
        assert not (tmp_path / "jobs" / "night" / "results" / "crops").exists()
