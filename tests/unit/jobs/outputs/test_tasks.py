"""The files of jobs whose model segments, finds keypoints or rotated boxes, or classifies."""

from __future__ import annotations

import csv
import math
import zipfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from serve_app.detections import Detections, Mask
from serve_app.jobs.outputs import file_name, write_format
from serve_app.jobs.outputs.shapes import joined
from serve_app.schemas.jobs import Format
from serve_app.types import MaskFormat
from tests.support import tasks
from tests.support.job_results import StoredResults, line, stored

parquet: Any = import_module("pyarrow.parquet")  # it has no type annotations


def written(kind: Format, folder: Path, found: Detections, mask: MaskFormat = "polygon") -> Path:
    path = folder / file_name(kind)
    write_format(kind, StoredResults([stored(5, "a.jpg", found, mask)]), path)
    return path


def labels(folder: Path, found: Detections, mask: MaskFormat = "polygon") -> list[list[str]]:
    """Return the lines of the image's YOLO labels, split into columns."""
    with zipfile.ZipFile(written("yolo", folder, found, mask)) as archive:
        return [text.split() for text in archive.read("labels/a.txt").decode().splitlines()]


def points_of(columns: list[str]) -> np.ndarray:
    """Return a polygon of shares in pixels of the image."""
    return np.array(columns, np.float64).reshape(-1, 2) * (tasks.WIDTH_PX, tasks.HEIGHT_PX)


@pytest.mark.parametrize("mask", ["polygon", "rle"])
def test_coco_has_masks_that_pycocotools_reads(tmp_path: Path, mask: MaskFormat) -> None:
    coco = COCO(written("coco", tmp_path, tasks.segmented(), mask))
    cat, dog = coco.anns.values()
    holes = 0 if mask == "polygon" else 20 * 20
    assert [cat["area"], dog["area"]] == [60 * 60 - holes, 20 * 80]
    assert [int(coco.annToMask(one).sum()) for one in (cat, dog)] == [cat["area"], dog["area"]]
    assert cat["bbox"] == [20, 10, 60, 60]


@pytest.mark.parametrize("mask", ["polygon", "rle"])
def test_coco_has_an_empty_mask_that_pycocotools_reads(tmp_path: Path, mask: MaskFormat) -> None:
    empty = Mask(np.zeros((2, 2), np.bool_), (0, 0, 9, 9))
    coco = COCO(written("coco", tmp_path, replace(tasks.segmented(), masks=(empty, empty)), mask))
    shapes = [(one["area"], coco.annToMask(one).shape, coco.annToMask(one).sum()) for one in coco.anns.values()]
    assert shapes == [(0, (tasks.HEIGHT_PX, tasks.WIDTH_PX), 0)] * 2


def test_coco_has_keypoints_and_their_names(tmp_path: Path) -> None:
    coco = COCO(written("coco", tmp_path, tasks.posed(3)))
    assert coco.cats[0] == {"id": 0, "name": "cat", "keypoints": ["head", "body", "tail"], "skeleton": []}
    cat, dog = coco.anns.values()
    assert cat["keypoints"] == [20, 10, 2, 20, 40, 2, 20, 70, 2]
    assert (dog["keypoints"], dog["num_keypoints"]) == ([100, 20, 2, 0, 0, 0, 100, 100, 2], 2)


def test_coco_has_the_limbs_of_people(tmp_path: Path) -> None:
    category = COCO(written("coco", tmp_path, tasks.posed())).cats[0]
    assert category["keypoints"] == [str(number) for number in range(17)]  # the model has no names for them
    assert len(category["skeleton"]) == 19
    assert category["skeleton"][0] == [16, 14]


def test_coco_has_rotated_boxes_as_polygons(tmp_path: Path) -> None:
    cat, dog = COCO(written("coco", tmp_path, tasks.rotated())).anns.values()
    assert cat["area"] == pytest.approx(60 * 30, rel=0.001)
    assert dog["segmentation"] == [[140, 100, 140, 20, 100, 20, 100, 100]]


def test_coco_lacks_the_classes_of_whole_images(tmp_path: Path) -> None:
    coco = COCO(written("coco", tmp_path, tasks.classified()))
    assert (len(coco.imgs), coco.anns) == (1, {})


@pytest.mark.parametrize("mask", ["polygon", "rle"])
def test_yolo_labels_of_masks_are_polygons(tmp_path: Path, mask: MaskFormat) -> None:
    cat, dog = labels(tmp_path, tasks.segmented(), mask)
    assert (cat[0], cat[-1], dog[0], dog[-1]) == ("0", "0.9000", "1", "0.6000")
    assert cv2.contourArea(points_of(cat[1:-1]).astype(np.float32)) == pytest.approx(60 * 60)
    assert sorted(points_of(dog[1:-1]).tolist()) == [[100, 20], [100, 100], [120, 20], [120, 100]]


def test_yolo_labels_of_poses_have_the_box_and_visible_keypoints(tmp_path: Path) -> None:
    _, dog = labels(tmp_path, tasks.posed(3))
    assert dog == [
        *("1", "0.600000", "0.600000", "0.200000", "0.800000"),
        *("0.500000", "0.200000", "2", "0.000000", "0.000000", "0", "0.500000", "1.000000", "2"),
        "0.6000",
    ]


def test_yolo_labels_of_rotated_boxes_are_their_corners(tmp_path: Path) -> None:
    cat, dog = labels(tmp_path, tasks.rotated())
    assert points_of(dog[1:-1]).tolist() == [[140, 100], [140, 20], [100, 20], [100, 100]]
    _, size, angle = cv2.minAreaRect(points_of(cat[1:-1]).astype(np.float32))
    assert sorted(size) == pytest.approx([30, 60], abs=0.05)
    assert angle % 90 == pytest.approx(math.degrees(math.pi / 6), abs=0.1)


def test_yolo_labels_of_classes_are_those_that_ultralytics_saves(tmp_path: Path) -> None:
    assert labels(tmp_path, tasks.classified()) == [["0.80", "dog"], ["0.15", "cat"]]
    with zipfile.ZipFile(tmp_path / "yolo.zip") as archive:
        assert archive.read("classes.txt") == b"cat\ndog\n"


def test_a_yolo_label_is_inside_the_image_and_an_empty_mask_has_none(tmp_path: Path) -> None:
    found = tasks.rotated()
    assert found.rotated is not None
    found.rotated[0, :2] = 0
    assert all(0 <= float(value) <= 1 for value in labels(tmp_path, found)[0][1:-1])
    empty = Mask(np.zeros((2, 2), np.bool_), (0, 0, 9, 9))
    assert labels(tmp_path, replace(tasks.segmented(), masks=(empty, empty))) == []


def test_the_parts_of_a_mask_make_one_polygon_of_the_same_area() -> None:
    corners = [(0.0, 0.0, 5.0), (10.0, 20.0, 6.0), (30.0, 3.0, 8.0)]  # x, y and height of each part
    rings = [[[x, y], [x, y + height], [x + 4, y + height], [x + 4, y]] for x, y, height in corners]
    assert cv2.contourArea(np.array(joined(rings), np.float32)) == 4 * (5 + 6 + 8)


def test_tables_have_a_row_for_each_box_or_class(tmp_path: Path) -> None:
    for found in (tasks.segmented(), tasks.posed(), tasks.rotated()):
        with written("csv", tmp_path, found).open() as file:
            assert [(row["label"], row["x1"]) for row in csv.DictReader(file)] == [("cat", "20.0"), ("dog", "100.0")]
    with written("csv", tmp_path, tasks.classified()).open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["class_id"], row["confidence"], row["x1"]) for row in rows] == [
        ("dog", "1", "0.8", ""),
        ("cat", "0", "0.15", ""),
    ]
    table = parquet.read_table(written("parquet", tmp_path, tasks.classified())).to_pydict()
    assert (table["label"], table["x1"]) == (["dog", "cat"], [None, None])


def test_a_result_with_boxes_alone_has_no_field_of_another_task() -> None:
    plain = line(1, "a.jpg", ("cat", 0, 0.9, (20.0, 10.0, 80.0, 70.0)), ("dog", 1, 0.6, (100.0, 20.0, 140.0, 100.0)))
    assert stored(1, "a.jpg", tasks.boxed()) == plain | {"model": "fake@1"}
