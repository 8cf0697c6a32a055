"""The dataset of one model in the collection's folder, in the format of YOLO.

    NAME/images/STEM.jpg     an image
    NAME/labels/STEM.txt     its detections: class_id x y width height confidence
    NAME/data.yaml           the names of the classes
    NAME/seen.json           the ids of the classes that were kept as new ones

An image has its labels at every moment, even if a process is killed: the labels are written before the image, and
deleted after it. An export reads the images first, so labels without an image do no harm.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from serve_app.disk import sync_folder
from serve_app.types import Answer, ModelInfo

IMAGES, LABELS, DESCRIPTION = "images", "labels", "data.yaml"
PART_SUFFIX = ".part"  # of a file that is being written
_SEEN, _SEEN_IDS = "seen.json", TypeAdapter(list[int])
_UNUSABLE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME = 64
_COMMENT = (
    "# Sightline keeps this dataset. The sixth column of labels is the model's confidence, which Ultralytics refuses.\n"
    "# `sightline collect export` writes a copy without this column.\n"
)


@lru_cache(maxsize=64)
def dataset_name(model_name: str, labels: tuple[str, ...]) -> str:
    """Return the name of the dataset for a model's name and its class labels.

    Models with different classes have different datasets, because class ids mean different classes.
    """
    digest = sha256(json.dumps(labels).encode()).hexdigest()[:8]
    return f"{_UNUSABLE.sub('_', model_name).strip('.')[:_MAX_NAME] or 'model'}-{digest}"


def label_lines(answer: Answer) -> str:
    """Return the detections of an image, one on each line: ``class_id x y width height confidence``.

    The box's centre and size are fractions of the image's width and height.
    """
    width, height = answer.width_px, answer.height_px
    return "".join(
        f"{class_id} {(left + right) / 2 / width:.6f} {(top + bottom) / 2 / height:.6f} "
        f"{(right - left) / width:.6f} {(bottom - top) / height:.6f} {confidence:.4f}\n"
        for (left, top, right, bottom), confidence, class_id in answer.detections
    )


def description(labels: tuple[str, ...], train: str, val: str) -> bytes:
    """Return the text of ``data.yaml``, which names the classes and the folders for training and validation."""
    content = {"train": train, "val": val, "names": dict(enumerate(labels))}
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode()


class Dataset:
    """A model's dataset. Only the process that has locked the collection's folder may write it."""

    def __init__(self, folder: Path, model: ModelInfo) -> None:
        self.name = dataset_name(model.name, model.labels)
        self._labels = model.labels
        self._folder = folder / self.name

    def read_seen(self) -> set[int]:
        """Return the ids of the classes that were kept as new ones."""
        try:
            return set(_SEEN_IDS.validate_json((self._folder / _SEEN).read_bytes()))
        except (OSError, ValidationError):  # there is no file yet, or it is damaged
            return set()

    def add(self, stem: str, jpeg: bytes, labels: bytes) -> None:
        """Write an image and its labels. Raise OSError, and leave neither of them, if they cannot be written."""
        for folder in (self._folder, self._folder / IMAGES, self._folder / LABELS):
            folder.mkdir(mode=0o700, exist_ok=True)
        if not (self._folder / DESCRIPTION).exists():
            _write(self._folder / DESCRIPTION, _COMMENT.encode() + description(self._labels, IMAGES, IMAGES))
        label_file = self._folder / LABELS / f"{stem}.txt"
        try:
            _write(label_file, labels)
            sync_folder(label_file.parent)  # otherwise, only the image might survive a power failure
            _write(self._folder / IMAGES / f"{stem}.jpg", jpeg)
        except OSError:
            with suppress(OSError):
                label_file.unlink(missing_ok=True)
            raise

    def add_seen(self, class_ids: frozenset[int]) -> None:
        """Save that these classes were kept. Raise OSError if the file cannot be written."""
        _write(self._folder / _SEEN, json.dumps(sorted(self.read_seen() | class_ids)).encode())


def _write(path: Path, data: bytes) -> None:
    """Write a whole file or none."""
    part = path.with_name(path.name + PART_SUFFIX)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)  # the disk may be full, so keep no partial file
        raise
