from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from serve_app.collection import collector as collector_module
from serve_app.collection.collector import Collector
from serve_app.collection.dataset import dataset_name
from serve_app.images.drawing import encode_jpeg
from serve_app.types import Answer, DetectOptions, ModelInfo, Pixels
from tests.support import tasks
from tests.support.clock import Clock
from tests.support.collected import BOX, GREY, LABELS, MODEL, answer, kept_stems, reasons_of, settings

NOISE = np.random.default_rng(0).integers(0, 256, GREY.shape, np.uint8)
AS_JPEG: Any = cv2.imdecode(np.frombuffer(encode_jpeg(NOISE), np.uint8), cv2.IMREAD_COLOR)
CERTAIN = answer(("dog", 0.9))
UNCERTAIN = answer(("dog", 0.4))


class Collecting:
    """A collector, and the images that it is offered."""

    def __init__(self, folder: Path, clock: Clock | None = None, pause_s: float = 0, **values: Any) -> None:
        self.collector = Collector(
            settings(folder, **values), max_pixels=10**6, pause_s=pause_s, clock=clock or time.monotonic
        )

    def offer(
        self,
        found: Answer,
        picture: bytes | Pixels = GREY,
        *,
        model: ModelInfo = MODEL,
        options: DetectOptions = MODEL.defaults,
        source: str = "lot",
    ) -> None:
        self.collector.offer(picture, found, model, options, source)

    def close(self) -> None:
        """Wait until all images are kept."""
        self.collector.close(30)
        assert not self.collector._thread.is_alive()

    @property
    def drops(self) -> dict[str, int]:
        return {reason: count for reason, count in self.collector.drops.items() if count}


@contextmanager
def collecting(folder: Path, **values: Any) -> Iterator[Collecting]:
    """Offer images to a collector, and wait until it has kept them."""
    made = Collecting(folder, **values)
    yield made
    made.close()


def picture_in(folder: Path) -> Pixels:
    """Return the only image that was kept."""
    (path,) = folder.glob("*/images/*.jpg")
    picture: Any = cv2.imread(str(path))
    assert picture is not None
    pixels: Pixels = picture
    return pixels


def test_images_that_are_worth_a_look_are_kept_and_counted_by_reason(tmp_path: Path) -> None:
    with collecting(tmp_path) as made:
        for found in (CERTAIN, CERTAIN, UNCERTAIN, answer()):
            made.offer(found)
    assert sorted(reasons_of(kept_stems(tmp_path))) == ["new_class", "uncertain"]
    assert made.collector.kept == {"new_class": 1, "uncertain": 1, "drifted": 0}
    assert made.drops == {}


def test_an_image_of_a_class_that_was_kept_before_a_restart_is_not_new(tmp_path: Path) -> None:
    for found in (CERTAIN, CERTAIN, UNCERTAIN):
        with collecting(tmp_path) as made:
            made.offer(found)
    assert reasons_of(kept_stems(tmp_path)) == ["new_class", "uncertain"]


def test_encoded_images_are_kept_upright_and_without_metadata(tmp_path: Path) -> None:
    """The EXIF data of a photograph can contain the place where it was taken."""
    half = np.zeros_like(GREY)
    half[:, :32] = 255
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"  # orientation 3: turned by 180°
    jpeg = encode_jpeg(half)
    jpeg = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + jpeg[2:]
    with collecting(tmp_path) as made:
        made.offer(UNCERTAIN, jpeg)
    (path,) = tmp_path.glob("*/images/*.jpg")
    assert b"Exif" not in path.read_bytes()
    assert picture_in(tmp_path)[:, 40:].mean() > 240


def test_objects_are_blurred_before_anything_is_written(tmp_path: Path) -> None:
    left, top, right, bottom = map(int, BOX)
    with collecting(tmp_path, blur="person, cat") as made:
        made.offer(answer(("person", 0.4), box=BOX), NOISE)
    kept = picture_in(tmp_path).astype(float)
    before = AS_JPEG.astype(float)
    inside = slice(top, bottom), slice(left, right)
    assert np.abs(kept - before)[inside].mean() > 20
    assert kept[inside].std() < before[inside].std() / 3
    assert np.abs(kept - before)[:, right + 16 :].mean() < 5


def test_objects_of_other_classes_are_not_blurred(tmp_path: Path) -> None:
    with collecting(tmp_path, blur="person") as made:
        made.offer(answer(("dog", 0.4)), NOISE)
    assert np.array_equal(picture_in(tmp_path), AS_JPEG)


@pytest.mark.parametrize(
    "options", [replace(MODEL.defaults, class_ids=(1,)), replace(MODEL.defaults, confidence=0.5)], ids=str
)
def test_an_image_whose_request_left_out_objects_to_blur_is_not_kept(options: DetectOptions, tmp_path: Path) -> None:
    with collecting(tmp_path, blur="person") as made:
        made.offer(UNCERTAIN, options=options)
    assert (kept_stems(tmp_path), made.drops) == ([], {"cannot_blur": 1})


def test_no_image_of_a_model_without_the_label_to_blur_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), collecting(tmp_path, blur="fase") as made:
        for _ in range(3):
            made.offer(UNCERTAIN)
    assert (kept_stems(tmp_path), made.drops) == ([], {"cannot_blur": 3})
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "collect.blur: the model best does not know all of these labels, so its images are not kept"
    ]


def test_images_of_excluded_keys_are_not_kept(tmp_path: Path) -> None:
    with collecting(tmp_path, excluded_keys="clinic, lab") as made:
        for source in ("lab", "clinic", "dock", ""):
            made.offer(UNCERTAIN, source=source)
    assert {stem.split("-")[2] for stem in kept_stems(tmp_path)} == {"dock", "http"}
    assert made.drops == {}


def test_images_too_small_for_training_are_not_kept(tmp_path: Path) -> None:
    with collecting(tmp_path) as made:
        made.offer(answer(("dog", 0.4), width_px=9))
    assert (kept_stems(tmp_path), made.drops) == ([], {"too_small": 1})


def test_a_stream_keeps_a_pause_between_two_images(tmp_path: Path) -> None:
    clock = Clock()
    with collecting(tmp_path, clock=clock, pause_s=6) as made:
        for clock.now_s in (0, 1, 5.9, 6, 11.9):  # the clock shows these times
            made.offer(answer(("dog", 0.4)))
    assert (len(kept_stems(tmp_path)), made.drops) == (2, {"rate_limit": 3})


def test_beyond_the_rate_limit_images_are_dropped_and_a_new_class_stays_new(tmp_path: Path) -> None:
    clock = Clock()
    made = Collecting(tmp_path, clock=clock, max_per_minute=1)
    made.offer(CERTAIN)
    made.offer(answer(("cat", 0.9)))
    made.close()
    assert (reasons_of(kept_stems(tmp_path)), made.drops) == (["new_class"], {"rate_limit": 1})
    found = answer(("dog", 0.9), ("cat", 0.9)).detections
    assert made.collector.selection.new_classes(found, dataset_name("best", LABELS)) == {2}
    made.offer(UNCERTAIN)  # refused without a look at the folder, because the time of the next credit is known
    assert made.drops == {"rate_limit": 2}


def test_a_full_queue_drops_images_instead_of_blocking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, may_continue = threading.Event(), threading.Event()

    def slow_encode(pixels: Pixels) -> bytes:
        writing.set()
        assert may_continue.wait(30)
        return encode_jpeg(pixels)

    monkeypatch.setattr(collector_module, "encode_jpeg", slow_encode)
    with collecting(tmp_path) as made:
        made.offer(UNCERTAIN)
        assert writing.wait(30)
        for _ in range(6):
            made.offer(UNCERTAIN)
        assert made.drops == {"queue_full": 2}
        may_continue.set()
    assert len(kept_stems(tmp_path)) == 5


def test_a_missing_folder_is_logged_once_and_every_image_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), collecting(tmp_path / "unmounted") as made:
        for _ in range(3):
            made.offer(UNCERTAIN)
    assert made.drops == {"unwritable": 3}
    assert [record.getMessage() for record in caplog.records] == [
        "collect.folder: images cannot be kept: No such file or directory"
    ]
    assert not (tmp_path / "unmounted").exists()


def test_an_image_that_cannot_be_kept_leaves_the_thread_alive(tmp_path: Path) -> None:
    with collecting(tmp_path) as made:
        made.offer(UNCERTAIN, b"not an image")
        made.offer(UNCERTAIN)
    assert (len(kept_stems(tmp_path)), made.drops) == (1, {"error": 1})


def test_an_image_that_is_classified_as_a_whole_is_not_kept(tmp_path: Path) -> None:
    with collecting(tmp_path) as collected:
        collected.collector.selection.drifting = frozenset({"lot"})
        collected.offer(tasks.answer(tasks.classified()))
    assert kept_stems(tmp_path) == []
    assert collected.drops == {}
