"""Write a kept dataset as a folder or a zip file with which Ultralytics can train.

Ultralytics accepts five columns in a label, so the confidence is left out.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import yaml

from serve_app.collection.dataset import DESCRIPTION, IMAGES, LABELS, description

_COLUMNS = 5
_VALIDATION_SHARE = 0.1


class ExportFailed(Exception):
    """The dataset cannot be exported. The message is one sentence for the user."""


@dataclass(frozen=True)
class Exported:
    """The numbers of exported images for training and for validation."""

    train: int
    val: int


class _Writer(Protocol):
    def add(self, name: str, data: bytes) -> None: ...


class _FolderWriter:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class _ZipWriter:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def add(self, name: str, data: bytes) -> None:
        self._archive.writestr(name, data)  # not compressed, because JPEGs would not get smaller


def export(source: Path, target: Path) -> Exported:
    """Write the dataset in ``source`` to ``target``, which is a new folder, or a file whose name ends in ``.zip``.

    ``source`` is the collection's folder, or the folder of one of its datasets. The service may keep running. The
    target appears when it is complete. Raise ExportFailed if there is nothing to export, and OSError if the target
    cannot be written.
    """
    dataset = _find_dataset(source)
    if target.exists():
        raise ExportFailed(f"{target} already exists: choose another name, or delete it")
    if target.resolve().is_relative_to(source.resolve()):
        raise ExportFailed(f"{target} is inside {source}: choose another folder")
    names = _names(dataset / DESCRIPTION)
    parts = _split(_stems(dataset))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        unfinished = Path(scratch) / "dataset"
        if target.suffix.lower() == ".zip":
            with zipfile.ZipFile(unfinished, "w") as archive:
                exported = _write(dataset, parts, names, _ZipWriter(archive))
        else:
            exported = _write(dataset, parts, names, _FolderWriter(unfinished))
        os.rename(unfinished, target)
    return exported


def _find_dataset(source: Path) -> Path:
    if (source / DESCRIPTION).is_file():
        return source
    found = sorted(path.parent for path in source.glob(f"*/{DESCRIPTION}"))
    if not found:
        raise ExportFailed(f"{source} has no dataset: give the folder of the setting collect.folder")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ExportFailed(f"{source} has several datasets ({names}): choose one, for example {found[0]}")
    return found[0]


def _stems(dataset: Path) -> list[str]:
    return sorted(path.stem for path in (dataset / IMAGES).glob("*.jpg"))


def _split(stems: list[str]) -> dict[str, str]:
    """Return whether each image is for training or for validation.

    A hash of the name decides, so a later export puts an image into the same part. Both parts have at least one image.
    """
    if len(stems) < 2:
        count = "1 image" if stems else "no image"
        raise ExportFailed(f"the dataset has {count}: it needs at least one image to train and one to validate")
    ranked = sorted(stems, key=_hash)
    wanted = sum(_hash(stem) < _VALIDATION_SHARE for stem in stems)
    for_validation = min(max(wanted, 1), len(stems) - 1)
    return {stem: "val" if number < for_validation else "train" for number, stem in enumerate(ranked)}


def _hash(stem: str) -> float:
    """Return a number from 0 to 1 that is evenly distributed over the stems."""
    return int.from_bytes(sha256(stem.encode()).digest()[:8]) / 2**64


def _names(file: Path) -> tuple[str, ...]:
    """Return the names of the classes in ``data.yaml``, which may be a dictionary or a list."""
    try:
        names = yaml.safe_load(file.read_text(encoding="utf-8"))["names"]
        return tuple(map(str, names.values() if isinstance(names, dict) else names))
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as exc:
        raise ExportFailed(f"{file} has no valid names of classes: correct the file") from exc


def _write(dataset: Path, parts: dict[str, str], names: tuple[str, ...], writer: _Writer) -> Exported:
    counts = {"train": 0, "val": 0}
    for stem, jpeg, labels in _read(dataset, parts):
        part = parts[stem]
        writer.add(f"{IMAGES}/{part}/{stem}.jpg", jpeg)
        writer.add(f"{LABELS}/{part}/{stem}.txt", labels)
        counts[part] += 1
    writer.add(DESCRIPTION, description(names, f"{IMAGES}/train", f"{IMAGES}/val"))
    return Exported(**counts)


def _read(dataset: Path, parts: dict[str, str]) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield the stem, the image and the labels of each image that still exists."""
    for stem in sorted(parts):
        label_file = dataset / LABELS / f"{stem}.txt"
        try:
            jpeg = (dataset / IMAGES / f"{stem}.jpg").read_bytes()  # first, because the service deletes it first
            labels = label_file.read_text(encoding="ascii")
        except FileNotFoundError:  # the service has just deleted it, because of the quota or its age
            continue
        except UnicodeDecodeError as exc:
            raise ExportFailed(f"{label_file} is not a label file: correct it, or delete it with its image") from exc
        yield stem, jpeg, "".join(f"{' '.join(line.split()[:_COLUMNS])}\n" for line in labels.splitlines()).encode()
