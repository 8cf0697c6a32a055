"""Print how well inputs of different shapes agree: ``python -m tests.parity.default_rectangle [WEIGHTS …]``.

Ultralytics' own predictor gets each photograph, in both orientations and cropped to unusual ratios, in its own default
rectangle, in the shape that Sightline chooses, and in the square. The table shows which share of the boxes above a
confidence of 0.5 has a match in the other shape: a box of the same class, an IoU of at least 0.9, and a confidence that
differs by at most 0.03.

Without arguments, the weights are those of YOLOv8n in the shared folder, and untrained networks.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from ultralytics import YOLO

from serve_app.images.letterbox import choose_shape
from serve_app.models.shapes import rectangles
from serve_app.types import InputShape
from tests.parity.pictures import shipped
from tests.parity.reference import Found, predict, predict_default, share_of_matches
from tests.parity.untrained import save_untrained
from tests.support.paths import SHARED

SQUARE = InputShape.square(640)
RATIOS = (None, 1.25, 2.0)  # the last two ratios have no rectangle of their own
UNTRAINED = ("yolov8n", "yolo11n", "yolo26n", "yolo26n end-to-end")


def photographs(ratio: float | None) -> list[np.ndarray]:
    """Read the photographs, and return each of them in both orientations.

    ``ratio``: crop the photographs to this ratio of their sides. None means to leave them as they are.
    """
    paths = [*sorted(SHARED.glob("images/*.jpg")), *shipped()]
    upright = [np.asarray(cv2.imread(str(path))) for path in paths]
    upright = [pixels if ratio is None else _cropped(pixels, ratio) for pixels in upright]
    return [*upright, *(cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE) for pixels in upright)]


def _cropped(pixels: np.ndarray, ratio: float) -> np.ndarray:
    height, width = pixels.shape[:2]
    return pixels[: min(height, round(width / ratio)), : min(width, round(height * ratio))]


def compare(weights: Path, ratio: float | None) -> str:
    """Return a row of the table. ``ratio``: see ``photographs``."""
    model = YOLO(weights)
    stride = int(model.model.stride.max())
    results: dict[str, list[list[Found]]] = {"default": [], "chosen": [], "square": []}
    for pixels in photographs(ratio):
        shape = choose_shape(pixels.shape[1], pixels.shape[0], (*rectangles(SQUARE, stride), SQUARE))
        results["default"].append(predict_default(model, pixels))
        results["chosen"].append(predict(model, pixels, size_px=shape))
        results["square"].append(predict(model, pixels, size_px=SQUARE))
    cells = [weights.stem, "as they are" if ratio is None else f"{ratio:g}:1"]
    for some, other in (("chosen", "default"), ("square", "default"), ("chosen", "square")):
        matched, boxes = share_of_matches(results[some], results[other])
        cells.append(f"{matched / max(boxes, 1):.4f} of {boxes}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Compare the shapes with each model."""
    print(
        "| model | photographs | chosen shape, default rectangle | square, default rectangle | chosen shape, square |"
    )
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        given = [Path(argument) for argument in sys.argv[1:]]
        if not given:
            given = [SHARED / "weights" / "yolov8n.pt", *(save_untrained(kind, Path(folder)) for kind in UNTRAINED)]
        for weights in given:
            for ratio in RATIOS:
                print(compare(weights, ratio), flush=True)


if __name__ == "__main__":
    main()
