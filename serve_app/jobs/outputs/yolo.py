"""YOLO labels: a zip file with a text file per image, as labelling tools import them, and ``classes.txt``.

A line is ``class_id x y width height confidence``. The box's centre and size are shares of the image's width and
height. An image without objects has an empty file.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from serve_app.detections import label_of
from serve_app.jobs.outputs.results import Results, parsed
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
            for found in result["detections"]:
                labels.setdefault(found["class_id"], found["label"])
            archive.add(names.name_for(result), "".join(map(_line, *_boxes(result))).encode())
        known = [labels.get(class_id) or label_of(class_id, ()) for class_id in range(max(labels, default=-1) + 1)]
        archive.add("classes.txt", "".join(f"{' '.join(label.split())}\n" for label in known).encode())


def _boxes(result: dict[str, Any]) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    image, found = result["image"], result["detections"]
    return found, [(image["width"], image["height"])] * len(found)


def _line(found: dict[str, Any], size: tuple[int, int]) -> str:
    box, (width, height) = found["bbox"], size
    x, y = (box["x1"] + box["x2"]) / 2 / width, (box["y1"] + box["y2"]) / 2 / height
    w, h = (box["x2"] - box["x1"]) / width, (box["y2"] - box["y1"]) / height
    return f"{found['class_id']} {x:.6f} {y:.6f} {w:.6f} {h:.6f} {found['confidence']:.4f}\n"


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
