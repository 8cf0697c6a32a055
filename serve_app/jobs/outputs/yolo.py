"""YOLO labels: a zip file with a text file per image, as labelling tools import them, and ``classes.txt``.

All coordinates are shares of the image's width and height. The form of a line depends on what was found, and is that
with which Ultralytics trains, followed by the confidence:

    class_id x y width height confidence                        a box: its centre and its size
    class_id x1 y1 x2 y2 … confidence                           the outline of a mask, or the corners of a rotated box
    class_id x y width height x1 y1 v1 x2 y2 v2 … confidence    a box with keypoints; v is 2 if it is visible, or else 0
    confidence label                                            a class of the whole image, as Ultralytics saves it

An image without objects has an empty file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from serve_app.detections import label_of
from serve_app.jobs.outputs.results import Results, parsed
from serve_app.jobs.outputs.shapes import joined, rings_in, visible
from serve_app.jobs.outputs.zip_writer import ZipWriter

NAME = "yolo.zip"
_FOLDER = "labels"
_MAX_PART = 100  # characters of a file's or a folder's name; file systems allow 255 bytes
_UNUSABLE = re.compile(r'[\x00-\x1f\x7f:*?"<>|]')


def write(results: Results, file: BinaryIO) -> None:
    """Write each image's labels, and then the names of the classes by class id."""
    labels: dict[int, str] = {}
    names = _Names()
    with ZipWriter(file) as archive:
        for result in parsed(results):
            classes = result.get("classes", ())
            for found in (*result["detections"], *classes):
                labels.setdefault(found["class_id"], found["label"])
            lines = [*_lines(result), *(f"{each['confidence']:.2f} {_one_line(each['label'])}\n" for each in classes)]
            archive.add(names.name_for(result), "".join(lines).encode())
        known = [labels.get(class_id) or label_of(class_id, ()) for class_id in range(max(labels, default=-1) + 1)]
        archive.add("classes.txt", "".join(f"{_one_line(label)}\n" for label in known).encode())


def _lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each object. A mask without pixels has no outline, and so no line."""
    size = result["image"]["width"], result["image"]["height"]
    for found in result["detections"]:
        rings = rings_in(found)
        values = _box(found, size) if rings is None else _shares(joined(rings), size)
        for x, y, visibility in visible(found.get("keypoints", [])):
            values += [*_shares([[x, y]], size), visibility]
        if values:
            numbers = " ".join(f"{value:.6f}" if isinstance(value, float) else str(value) for value in values)
            yield f"{found['class_id']} {numbers} {found['confidence']:.4f}\n"


def _one_line(label: str) -> str:
    return " ".join(label.split())


def _box(found: dict[str, Any], size: tuple[int, int]) -> list[float]:
    box, (width, height) = found["bbox"], size
    x, y = (box["x1"] + box["x2"]) / 2 / width, (box["y1"] + box["y2"]) / 2 / height
    return [x, y, (box["x2"] - box["x1"]) / width, (box["y2"] - box["y1"]) / height]


def _shares(points: list[list[float]], size: tuple[int, int]) -> list[float]:
    """Return points as shares of the image. They are at its edge if they lie beyond, because labels must be inside."""
    return [min(max(value / side, 0.0), 1.0) for point in points for value, side in zip(point, size, strict=True)]


class _Names:
    """Gives each result a file name of its own, which never leads out of the folder."""

    def __init__(self) -> None:
        self._used: set[int] = set()  # hashes, because a million names would take much memory

    def name_for(self, result: dict[str, Any]) -> str:
        parts = [_UNUSABLE.sub("_", part)[-_MAX_PART:] for part in re.split(r"[/\\]+", result["name"])]
        path = PurePosixPath(*(part for part in parts if part.strip(". ")))
        stem = path.with_suffix("") if path.name else PurePosixPath("image")
        if "time_s" in result or not self._is_new(stem):  # a frame has its video's name
            stem = stem.with_name(f"{stem.name}_{result['item']}")
            self._is_new(stem)
        return f"{_FOLDER}/{stem}.txt"

    def _is_new(self, stem: PurePosixPath) -> bool:
        # Some file systems do not distinguish upper and lower case.
        key = int.from_bytes(blake2b(str(stem).casefold().encode(), digest_size=8).digest(), "big")
        is_new = key not in self._used
        self._used.add(key)
        return is_new
