"""Tests that processes which are killed at random times leave a folder that can be exported at any time."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np

from serve_app.collection.dataset import Dataset, dataset_name
from serve_app.collection.export import export
from serve_app.collection.folder import CollectionFolder
from serve_app.images.drawing import encode_jpeg
from tests.support.collected import LABELS, MODEL, answer, kept_stems, settings

KILLS = 10
QUOTA = 2 << 20
JPEG = encode_jpeg(np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8))
FOUND = answer(("dog", 0.4), ("person", 0.9))
EXPORTED_LABELS = "1 0.250000 0.500000 0.250000 0.666667\n0 0.250000 0.500000 0.250000 0.666667\n"


def collection(folder: Path) -> CollectionFolder:
    return CollectionFolder(settings(folder, max_disk_gib=QUOTA / 2**30), folder)


def keep_images(folder: Path) -> None:
    """Keep images until this process is killed. The oldest images are deleted again and again, due to the quota."""
    kept, dataset = collection(folder), Dataset(folder, MODEL)
    while True:
        kept.keep(dataset, JPEG, FOUND, "new_class", "lot", frozenset({random.randrange(3)}))


def start(folder: Path) -> int:
    """Start a process that keeps images, and return its id."""
    if (child := os.fork()) == 0:
        try:
            keep_images(folder)
        finally:
            os._exit(1)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def check_export(folder: Path, target: Path) -> None:
    """Export while another process keeps images, and check every image and label."""
    exported = export(folder, target)
    pictures = list(target.glob("images/*/*.jpg"))
    labels = list(target.glob("labels/*/*.txt"))
    assert len(pictures) == len(labels) == exported.train + exported.val
    assert all(path.read_bytes() == JPEG for path in pictures)
    assert all(path.read_text() == EXPORTED_LABELS for path in labels)
    shutil.rmtree(target)


def test_an_export_is_valid_whenever_a_process_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    dataset = folder / dataset_name(MODEL.name, LABELS)
    children = [start(folder) for _ in range(2)]
    try:
        while len(list(dataset.glob("images/*.jpg"))) < 2:
            time.sleep(0.01)
        for _ in range(KILLS):
            time.sleep(random.uniform(0, 0.1))
            kill(children.pop(0))
            check_export(folder, tmp_path / "dataset")
            with collection(folder)._locked():  # so that the other process changes nothing meanwhile
                assert sum(path.stat().st_size for path in dataset.glob("*s/*")) <= QUOTA
                labels = {path.stem for path in dataset.glob("labels/*.txt")}
                assert {path.stem for path in dataset.glob("images/*.jpg")} <= labels
            children.append(start(folder))
    finally:
        for child in children:
            kill(child)
    assert len(kept_stems(folder)) > 2
    (folder / ".state").unlink()  # so that the next process counts the files
    assert collection(folder).keep(Dataset(folder, MODEL), JPEG, FOUND, "uncertain", "lot", frozenset()) is None
    assert {path.stem for path in dataset.glob("labels/*")} == set(kept_stems(folder))
    assert list(folder.rglob("*s/*.part")) == []
