"""COCO: one JSON file that pycocotools and labelling tools load. Each annotation has a ``score``.

An image's id is its item's number, and a category's id is the model's class id. If two models give one class id
different labels, the later labels get ids above all others.

Masks and rotated boxes are polygons in ``segmentation``. Masks that were stored as RLE stay RLE, and a mask without
pixels is an RLE, too. Keypoints are visible (2) or unknown (0). COCO has no classes of whole images, so these are left
out.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from serve_app.jobs.outputs.results import Results, parsed
from serve_app.jobs.outputs.shapes import area_of, rings_in, stored_mask, visible
from serve_app.keypoints import COCO_COUNT, LIMBS
from serve_app.outlines import mask_of_rings, rle_of

NAME = "coco.json"

_Label = tuple[int, str]  # a class id and its label


def write(results: Results, file: BinaryIO) -> None:
    """Write all images, then all categories, then all annotations. This reads the results twice."""
    labels: set[_Label] = set()
    keypoints: dict[str, list[str]] = {}  # the names of each label's keypoints
    file.write(b'{"images":[')
    separator = b"\n"
    for result in parsed(results):
        labels.update((found["class_id"], found["label"]) for found in result["detections"])
        keypoints |= _keypoint_names(result)
        file.write(separator + _json(_image(result)))
        separator = b",\n"
    categories = _category_ids(labels)
    file.write(b'\n],"categories":[')
    separator = b"\n"
    for (_, label), category_id in sorted(categories.items(), key=lambda each: each[1]):
        file.write(separator + _json({"id": category_id, "name": label} | _skeleton(keypoints.get(label))))
        separator = b",\n"
    file.write(b'\n],"annotations":[')
    separator = b"\n"
    annotation_id = 0
    for result in parsed(results):
        for found in result["detections"]:
            annotation_id += 1  # from 1, because pycocotools takes 0 for "no match"
            category_id = categories[found["class_id"], found["label"]]
            file.write(separator + _annotation(annotation_id, result, category_id, found))
            separator = b",\n"
    file.write(b"\n]}\n")


def _image(result: dict[str, Any]) -> dict[str, Any]:
    image = {"id": result["item"], "file_name": result["name"], **result["image"]}
    return image | {key: result[key] for key in ("time_s",) if key in result}


def _annotation(annotation_id: int, result: dict[str, Any], category_id: int, found: dict[str, Any]) -> bytes:
    box, image = found["bbox"], result["image"]
    width, height = round(box["x2"] - box["x1"], 2), round(box["y2"] - box["y1"], 2)
    area, more = round(width * height, 2), ""
    if (shape := _shape(found, image)) is not None:
        area = round(shape[1], 2)
        more = f',"segmentation":{_json(shape[0]).decode()}'
    if "keypoints" in found:
        points = visible(found["keypoints"])
        flat = _json([value for point in points for value in point]).decode()
        more += f',"keypoints":{flat},"num_keypoints":{sum(v > 0 for _, _, v in points)}'
    return (  # all values are numbers, and this takes a third of the time of ``json.dumps``
        f'{{"id":{annotation_id},"image_id":{result["item"]},"category_id":{category_id},'
        f'"bbox":[{box["x1"]},{box["y1"]},{width},{height}],"area":{area},'
        f'"iscrowd":0,"score":{found["confidence"]}{more}}}'
    ).encode()


def _shape(found: dict[str, Any], image: dict[str, Any]) -> tuple[Any, float] | None:
    """Return the ``segmentation`` of an object and its area in square pixels, or None if it is only a box."""
    if "mask" in found:
        return found["mask"], float(stored_mask(found["mask"]).bits.sum())
    rings = rings_in(found)
    if rings == []:  # pycocotools cannot read a list without polygons
        size = image["height"], image["width"]
        return {"size": size, "counts": rle_of(mask_of_rings([]), size[1], size[0]).counts}, 0.0
    return None if rings is None else ([[value for point in ring for value in point] for ring in rings], area_of(rings))


def _keypoint_names(result: dict[str, Any]) -> dict[str, list[str]]:
    """Return the names of each label's keypoints. Keypoints without names are numbered."""
    return {
        found["label"]: result.get("keypoint_names") or [str(number) for number in range(len(found["keypoints"]))]
        for found in result["detections"]
        if "keypoints" in found
    }


def _skeleton(names: list[str] | None) -> dict[str, Any]:
    """Return what a category says about its keypoints. COCO counts them from 1 in limbs."""
    if names is None:
        return {}
    limbs = [[one + 1, other + 1] for one, other in LIMBS] if len(names) == COCO_COUNT else []
    return {"keypoints": names, "skeleton": limbs}


def _category_ids(labels: set[_Label]) -> dict[_Label, int]:
    ids: dict[_Label, int] = {}
    free = max((class_id for class_id, _ in labels), default=0) + 1
    for class_id, label in sorted(labels):
        if class_id in ids.values():
            ids[class_id, label] = free
            free += 1
        else:
            ids[class_id, label] = class_id
    return ids


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
