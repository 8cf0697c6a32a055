"""Evaluate the embedded model on unseen images, with the same engine and thresholds as in serving."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.progress import track

from scripts.codes import dataset
from scripts.codes.scenes import Scene, Truth
from scripts.codes.score import Guess, Score, score
from scripts.codes.symbols import LABELS
from serve_app.config import DetectArgs, ModelArgs
from serve_app.images.decode import decode
from serve_app.images.letterbox import letterbox
from serve_app.images.map_back import to_picture
from serve_app.models.engines import Engine
from serve_app.models.load import load
from serve_app.models.tasks import to_detections
from serve_app.types import DetectOptions, Pixels

SIZE_PX = 640  # size of the test images and of the model input, so no image is rescaled
WIDTHS_PX = (0, 16, 24, 32, 64, 128, 1000)  # limits of the width classes in the table of recall
_COLUMNS = 4  # columns of the contact sheet
_MIN_CONFIDENCE = 0.01  # low, because average precision also needs uncertain detections


@dataclass(frozen=True)
class Report:
    """The results of an evaluation."""

    map50: dict[str, float]  # by label; the key "all" has the mean over the labels
    map50_95: dict[str, float]
    # The outer keys are the labels and "all". Each inner dict maps a width class in px, (minimum, limit), to the pair
    # (codes found, codes in total). The limit itself is not in the class.
    recall: dict[str, dict[tuple[int, int], tuple[int, int]]]
    false_per_picture: float  # false positives per generated image
    photographs: dict[Path, list[Guess]]  # detections; all are false positives, because the photographs show no codes
    confidence: float  # the threshold for recall and false positives

    def recall_from(self, label: str, width_px: int) -> tuple[int, int]:
        """Return (codes found, codes in total) for the codes of a label that are at least ``width_px`` wide."""
        counts = [count for (low, _), count in self.recall[label].items() if low >= width_px]
        return sum(found for found, _ in counts), sum(asked for _, asked in counts)

    def as_markdown(self) -> str:
        """Format the results as Markdown tables."""
        lines = ["| | " + " | ".join(self.map50) + " |", "|---" * (len(self.map50) + 1) + "|"]
        for name, values in (("mAP50", self.map50), ("mAP50-95", self.map50_95)):
            lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values.values()) + " |")
        for low, high in itertools.pairwise(WIDTHS_PX):
            cells = [_share(*by_width[low, high]) for by_width in self.recall.values()]
            lines.append(f"| recall, {_span(low, high)} | " + " | ".join(cells) + " |")
        wide = [_share(*self.recall_from(label, 24)) for label in self.recall]
        lines.append("| recall, 24 px and wider | " + " | ".join(wide) + " |")
        count = sum(map(len, self.photographs.values()))
        lines += [
            "",
            f"False positives above {self.confidence}: {self.false_per_picture:.3f} per generated image, {count} on "
            f"{len(self.photographs)} photographs ({count / max(len(self.photographs), 1):.2f} per image).",
        ]
        return "\n".join(lines)


def _span(low: int, high: int) -> str:
    if low == WIDTHS_PX[0]:
        return f"under {high} px wide"
    return f"{low} px and wider" if high == WIDTHS_PX[-1] else f"{low} to {high} px"


def _share(found: int, asked: int) -> str:
    return f"{found / asked:.3f} ({asked})" if asked else ""


def evaluate(seed: int, photographs: Iterable[Path], *, pictures: int, contact_sheet: Path | None = None) -> Report:
    """Evaluate the model on test images and photographs. Save a contact sheet if its path is given."""
    engine = load(ModelArgs(weights=Path("codes"), engine="openvino", image_size_px=SIZE_PX), has_gpu=False)
    threshold = DetectArgs().confidence
    truths: list[Sequence[Truth]] = []
    guesses: list[list[Guess]] = []
    scores: list[Score] = []
    for index in track(range(pictures), "test images"):
        scene = dataset.scene(seed, dataset.TEST, index, SIZE_PX)
        found = detect(engine, scene.pixels, _MIN_CONFIDENCE)
        truths.append(scene.truths)
        guesses.append(found)
        scores.append(score(scene, [guess for guess in found if guess.confidence > threshold]))
    map50, map50_95 = average_precision(truths, guesses)
    if contact_sheet:
        _save_contact_sheet(contact_sheet, seed, scores)
    return Report(
        map50=map50,
        map50_95=map50_95,
        recall={label: _recall(scores, label) for label in ("all", *LABELS)},
        false_per_picture=float(np.mean([len(one.false) for one in scores])),
        photographs={path: detect(engine, decode(path.read_bytes(), 10**9), threshold) for path in photographs},
        confidence=threshold,
    )


def detect(engine: Engine, pixels: Pixels, confidence: float) -> list[Guess]:
    """Return the detections that the service would return for an image."""
    slot = np.empty(engine.info.input_shape.array, np.uint8)
    fitted = letterbox(pixels, slot)
    (raw,) = engine.infer([slot])
    options = DetectOptions(**DetectArgs(confidence=confidence).model_dump())
    detections = to_picture(to_detections(raw, engine.info, options), fitted)
    return [
        Guess(LABELS[class_id], confidence, (x1, y1, x2, y2)) for (x1, y1, x2, y2), confidence, class_id in detections
    ]


def average_precision(
    truths: Sequence[Sequence[Truth]], guesses: list[list[Guess]], labels: Sequence[str] = LABELS
) -> tuple[dict[str, float], dict[str, float]]:
    """Compute COCO's average precision for each of the labels and for "all". Each label must have a truth.

    The first dict has the precisions at an IoU threshold of 0.5. The second dict has the mean precisions over the
    thresholds from 0.5 to 0.95.
    """

    def entry(number: int, picture: int, label: str, box: tuple[float, ...]) -> dict[str, Any]:
        x1, y1, x2, y2 = box
        area = (x2 - x1) * (y2 - y1)
        category = labels.index(label)
        return {"id": number, "image_id": picture, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": area, "iscrowd": 0}  # fmt: skip

    asked = [(picture, truth) for picture, some in enumerate(truths) for truth in some]
    given = [(picture, guess) for picture, some in enumerate(guesses) for guess in some if guess.label in labels]
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": picture} for picture in range(len(truths))],
        "categories": [{"id": number, "name": label} for number, label in enumerate(labels)],
        "annotations": [
            entry(number, picture, truth.label, truth.box) for number, (picture, truth) in enumerate(asked, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # hide the progress that pycocotools prints
        coco.createIndex()
        answers = coco.loadRes(
            [entry(0, picture, guess.label, guess.box) | {"score": guess.confidence} for picture, guess in given]
        )
        judge = COCOeval(coco, answers, "bbox")
        judge.evaluate()
        judge.accumulate()
    # The array has the axes (IoU, recall, label, area range, limit of detections per image). Index 0 selects all areas,
    # and index -1 selects the limit of 100.
    precision = judge.eval["precision"][:, :, :, 0, -1]
    by_label = {label: precision[:, :, number].mean(1) for number, label in enumerate(labels)}
    by_label = {"all": np.mean(list(by_label.values()), axis=0)} | by_label
    return (
        {label: float(values[0]) for label, values in by_label.items()},
        {label: float(values.mean()) for label, values in by_label.items()},
    )


def _recall(scores: list[Score], label: str) -> dict[tuple[int, int], tuple[int, int]]:
    found = [truth.width_px for one in scores for truth, _ in one.found if label in ("all", truth.label)]
    missed = [truth.width_px for one in scores for truth in one.missed if label in ("all", truth.label)]
    counts = {}
    for low, high in itertools.pairwise(WIDTHS_PX):
        hits = sum(low <= width < high for width in found)
        counts[low, high] = hits, hits + sum(low <= width < high for width in missed)
    return counts


def _save_contact_sheet(path: Path, seed: int, scores: list[Score]) -> None:
    """Save two rows of images without errors, and two rows of images with missed codes or false positives."""
    good = [index for index, one in enumerate(scores) if len(one.found) >= 2 and not one.missed and not one.false]
    bad = [index for index, one in enumerate(scores) if one.missed or one.false]
    chosen = good[: 2 * _COLUMNS] + bad[: 2 * _COLUMNS]
    tiles = [_tile(dataset.scene(seed, dataset.TEST, index, SIZE_PX), scores[index]) for index in chosen]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)]
    cv2.imwrite(str(path), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 80])


def _tile(scene: Scene, result: Score) -> Pixels:
    """Draw a scene with found codes in green, missed codes in red and false positives in yellow."""
    pixels = scene.pixels.copy()
    green, red, yellow = (80, 220, 80), (60, 60, 255), (0, 220, 255)
    boxes = [(guess.box, green, guess.label) for _, guess in result.found]
    boxes += [(truth.box, red, f"missed {truth.label}") for truth in result.missed]
    boxes += [(guess.box, yellow, f"no {guess.label}") for guess in result.false]
    for (x1, y1, x2, y2), colour, text in boxes:
        cv2.rectangle(pixels, (round(x1), round(y1)), (round(x2), round(y2)), colour, 3)
        cv2.putText(pixels, text, (round(x1), max(round(y1) - 6, 20)), cv2.FONT_HERSHEY_SIMPLEX, 0.7, colour, 2)
    small: Pixels = cv2.resize(pixels, (320, 320), interpolation=cv2.INTER_AREA)
    return small
