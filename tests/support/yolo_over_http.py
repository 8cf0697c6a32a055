"""Run a model with Ultralytics twice, from its file and over HTTP from the server, and print how much they differ.

This runs in a process of its own: yolo_over_http.py PACKAGES URL WEIGHTS TASK FOLDER. PACKAGES is the folder in which
tritonclient is installed, which needs other versions of some packages than Sightline.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])  # before Sightline's packages

import numpy as np
from ultralytics import YOLO

CONFIDENCE = 0.25


def arrays_of(result: Any, task: str) -> dict[str, Any]:
    """Return what the model has found, in Ultralytics' order."""
    if task == "classify":
        return {"probabilities": result.probs.data.numpy()}
    boxes = result.obb if task == "obb" else result.boxes
    found = {"classes": boxes.cls.numpy(), "confidences": boxes.conf.numpy(), "boxes": boxes.xyxy.numpy()}
    return found | ({"keypoints": result.keypoints.data.numpy()} if task == "pose" else {})


def main(url: str, weights: str, task: str, folder: str) -> None:
    """Print, as JSON, the number of results and the largest difference between their numbers."""
    remote, local = YOLO(url, task=task), YOLO(weights)
    found, difference, side_px = 0, 0.0, 0
    for path in sorted(Path(folder).iterdir()):
        ours = remote(path, conf=CONFIDENCE, verbose=False)[0]
        side_px = side_px or remote.predictor.model.imgsz[0]
        theirs = local(path, conf=CONFIDENCE, imgsz=side_px, rect=False, verbose=False)[0]
        assert ours.names == theirs.names
        mine, reference = arrays_of(ours, task), arrays_of(theirs, task)
        for name, array in reference.items():
            if array.shape != mine[name].shape:
                raise SystemExit(f"{path.name}: {name}: {mine[name].shape} instead of {array.shape}")
            difference = max(difference, float(np.abs(array - mine[name]).max(initial=0)))
        found += len(next(iter(reference.values())))
    print(json.dumps({"found": found, "difference": difference}))


if __name__ == "__main__":
    main(*sys.argv[2:])
