"""Files of jobs as their users read them: COCO by pycocotools' evaluation, YOLO labels by Ultralytics' data sets."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from serve_app.detections import Detections
from serve_app.jobs.outputs import file_name, write_format
from serve_app.schemas.jobs import Format
from serve_app.types import MaskFormat
from tests.support import tasks
from tests.support.job_results import StoredResults, stored

SIZE = np.array((tasks.WIDTH_PX, tasks.HEIGHT_PX))


def written(kind: Format, folder: Path, found: Detections, mask: MaskFormat = "polygon") -> Path:
    path = folder / file_name(kind)
    write_format(kind, StoredResults([stored(5, "a.png", found, mask)]), path)
    return path


def precision(truth: COCO, answers: list[dict[str, Any]], kind: str) -> float:
    """Return the average precision over all IoUs, or over all OKS, and all sizes of objects."""
    evaluation = COCOeval(truth, truth.loadRes(answers), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


CASES: list[tuple[str, Detections, MaskFormat]] = [
    ("segm", tasks.segmented(), "polygon"),
    ("segm", tasks.segmented(), "rle"),
    ("segm", tasks.rotated(), "polygon"),
    ("keypoints", tasks.posed(), "polygon"),
    ("bbox", tasks.boxed(), "polygon"),
]


@pytest.mark.parametrize(("kind", "found", "mask"), CASES)
def test_coco_is_both_truth_and_answers_of_pycocotools_evaluation(
    kind: str, found: Detections, mask: MaskFormat, tmp_path: Path
) -> None:
    path = written("coco", tmp_path, found, mask)
    annotations = json.loads(path.read_text())["annotations"]
    assert precision(COCO(path), annotations, kind) == pytest.approx(1)
    labels = annotations[0]["category_id"], annotations[1]["category_id"]
    wrong = [one | {"category_id": label} for one, label in zip(annotations, reversed(labels), strict=True)]
    assert precision(COCO(path), wrong, kind) == 0


def dataset(task: str, found: Detections, folder: Path, *, has_confidence: bool = False) -> dict[str, Any]:
    """Return the objects in the only image of Ultralytics' data set of a task, as it gives them to its training.

    Coordinates are fractions of the image's width and height. The last column of the labels is removed, unless
    ``has_confidence``.
    """
    from ultralytics.data.dataset import YOLODataset

    with zipfile.ZipFile(written("yolo", folder, found)) as archive:
        archive.extractall(folder)
    label = folder / "labels/a.txt"
    if not has_confidence:
        label.write_text("".join(f"{line.rpartition(' ')[0]}\n" for line in label.read_text().splitlines()))
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images/a.png"), np.zeros((tasks.HEIGHT_PX, tasks.WIDTH_PX, 3), np.uint8))
    data = {"names": dict(enumerate(tasks.LABELS)), "nc": 2, "kpt_shape": [3, 3], "channels": 3}
    images = YOLODataset(img_path=str(folder / "images"), data=data, task=task, augment=False, imgsz=tasks.WIDTH_PX)
    label_of_image: dict[str, Any] = images.labels[0]
    return label_of_image | {"instances": images.get_image_and_label(0)["instances"]}


def test_ultralytics_reads_the_outlines_of_masks(tmp_path: Path) -> None:
    found = dataset("segment", tasks.segmented(), tmp_path)
    cat, dog = found["segments"]
    assert found["cls"].ravel().tolist() == [0, 1]
    assert cv2.contourArea(np.rint(cat * SIZE).astype(np.float32)) == 60 * 60
    assert sorted(np.rint(dog * SIZE).tolist()) == [[100, 20], [100, 100], [120, 20], [120, 100]]


def test_ultralytics_reads_keypoints(tmp_path: Path) -> None:
    found = dataset("pose", tasks.posed(3), tmp_path)
    cat, dog = found["keypoints"]
    assert (cat * (*SIZE, 1)).tolist() == [pytest.approx(point) for point in [[20, 10, 2], [20, 40, 2], [20, 70, 2]]]
    assert (dog * (*SIZE, 1)).tolist() == [pytest.approx(point) for point in [[100, 20, 2], [0, 0, 0], [100, 100, 2]]]
    centres, sizes = found["bboxes"][:, :2] * SIZE, found["bboxes"][:, 2:] * SIZE
    assert np.allclose(np.hstack([centres - sizes / 2, centres + sizes / 2]), tasks.BOXES, atol=0.01)


def test_ultralytics_reads_rotated_boxes(tmp_path: Path) -> None:
    from ultralytics.utils.ops import xyxyxyxy2xywhr

    found = dataset("obb", tasks.rotated(), tmp_path)
    corners = np.stack([corners[:4] for corners in found["segments"]]) * SIZE
    rotated = tasks.rotated().rotated
    assert rotated is not None
    read = xyxyxyxy2xywhr(corners.reshape(-1, 8).astype(np.float32))
    assert np.allclose(read[0], rotated[0], atol=0.05)


@pytest.mark.parametrize(
    ("task", "found"), [("segment", tasks.segmented()), ("pose", tasks.posed(3)), ("obb", tasks.rotated())]
)
def test_ultralytics_refuses_labels_with_the_confidence(task: str, found: Detections, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No valid images found"):
        dataset(task, found, tmp_path, has_confidence=True)
