"""Run a model with Ultralytics twice, over HTTP from the server and from its file, and print how much they differ.

This runs in a process of its own: yolo_over_http.py PACKAGES MODE URL WEIGHTS TASK SOURCE. PACKAGES is the folder in
which tritonclient is installed, which needs other versions of some packages than Sightline. MODE is predict, track or
val. SOURCE is a folder of images, a video or a data set.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

sys.path.insert(0, sys.argv[1])  # before Sightline's packages

import numpy as np
from ultralytics import YOLO

CONFIDENCE = 0.25
TRACKERS = ("tracktrack.yaml", "bytetrack.yaml")  # the default, and one that sees only the boxes


def arrays_of(result: Any, task: str) -> dict[str, Any]:
    """Return what the model has found in one image, in Ultralytics' order, and the ids of tracked objects."""
    if task == "classify":
        return {"probabilities": result.probs.data.numpy()}
    boxes = result.obb if task == "obb" else result.boxes
    found = {"classes": boxes.cls.numpy(), "confidences": boxes.conf.numpy(), "boxes": boxes.xyxy.numpy()}
    if boxes.is_track:
        found["ids"] = boxes.id.numpy()
    return found | ({"keypoints": result.keypoints.data.numpy()} if task == "pose" else {})


def compare(over_http: Iterable[Any], from_file: Iterable[Any], task: str) -> dict[str, Any]:
    """Return the number of results, the ids of tracked objects, and the largest difference between any two numbers."""
    found, difference, ids = 0, 0.0, set()
    for number, (ours, theirs) in enumerate(zip(over_http, from_file, strict=True)):
        assert ours.names == theirs.names
        mine, reference = arrays_of(ours, task), arrays_of(theirs, task)
        if shapes_of(mine) != shapes_of(reference):
            raise SystemExit(f"image {number}: {shapes_of(mine)} instead of {shapes_of(reference)}")
        for name, array in reference.items():
            difference = max(difference, float(np.abs(array - mine[name]).max(initial=0)))
        found += len(next(iter(reference.values())))
        ids |= set(reference.get("ids", np.empty(0)).astype(int).tolist())
    return {"found": found, "difference": difference, "ids": sorted(ids)}


def shapes_of(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the shape of each array."""
    return {name: array.shape for name, array in arrays.items()}


def validate(url: str, weights: str, task: str, data: str) -> dict[str, Any]:
    """Return the file's scores, and the largest difference between them and those over HTTP.

    Ultralytics begins with a tensor of memory that it has not initialised. If this memory contains other numbers than
    zeros, the server refuses it. So HTTP comes first, and MALLOC_PERTURB_ must be 255.
    """
    options = {"data": data, "plots": False, "verbose": False}
    sides_px: list[Any] = []
    remote = YOLO(url, task=task)
    remote.add_callback("on_val_start", lambda validator: sides_px.append(validator.args.imgsz))
    mine = remote.val(**options).results_dict
    scores = YOLO(weights).val(**options, imgsz=sides_px[0], batch=1, rect=False).results_dict
    return {"scores": scores, "difference": max(abs(score - mine[name]) for name, score in scores.items())}


def main(mode: str, url: str, weights: str, task: str, source: str) -> None:
    """Print, as a list in JSON, what was found and how much the results differ."""
    if mode == "val":
        print(json.dumps([validate(url, weights, task, source)]))
        return
    remote, local = YOLO(url, task=task), YOLO(weights, task=task)
    answers = []
    for tracker in TRACKERS if mode == "track" else [None]:
        options = {"source": source, "conf": CONFIDENCE, "verbose": False, "tracker": tracker}
        ours = getattr(remote, mode)(**options)
        theirs = getattr(local, mode)(**options, imgsz=remote.predictor.model.imgsz[0], rect=False)
        answers.append(compare(ours, theirs, task))
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[2:])
