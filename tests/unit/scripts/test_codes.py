"""Tests of the image generator: readable codes, exact boxes, and the same images from the same seed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from scripts.codes import dataset, evaluation, samples
from scripts.codes.scenes import Art, Scene, Truth, bent, corners_of, outline_of, paste, print_label, turned
from scripts.codes.score import Guess, score
from scripts.codes.surfaces import HELD_OUT, TRAINING, package_files
from scripts.codes.symbols import LABELS, Symbol, data_matrix, linear_barcode, marker, qr_code
from tests.support.paths import SHARED


def printed(symbol: Symbol, module_px: int = 6) -> np.ndarray:
    """Draw the symbol in black on white, with a quiet zone."""
    rows, columns = symbol.modules.shape
    size = columns * module_px, (rows if rows > 1 else columns // 2) * module_px
    modules = cv2.resize(symbol.modules, size, interpolation=cv2.INTER_NEAREST)
    dark = np.where(modules, 0, 255).astype(np.uint8)
    picture: np.ndarray = cv2.copyMakeBorder(dark, 80, 80, 80, 80, cv2.BORDER_CONSTANT, value=255)
    return picture


def test_a_qr_code_can_be_read() -> None:
    assert cv2.QRCodeDetector().detectAndDecode(printed(qr_code("image 000042")))[0] == "image 000042"


def test_a_barcode_can_be_read() -> None:
    symbol = linear_barcode("400638133393", "ean13")
    seen = cv2.GaussianBlur(printed(symbol, 3), (5, 5), 0)  # OpenCV's reader expects some blur, as from a camera
    assert cv2.barcode.BarcodeDetector().detectAndDecode(seen)[0] == symbol.payload == "4006381333931"


@pytest.mark.parametrize("family", ["4X4_250", "ARUCO_ORIGINAL", "APRILTAG_36h11"])
def test_a_marker_can_be_read(family: str) -> None:
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{family}")))
    symbol = marker(17, family)
    assert (detector.detectMarkers(printed(symbol, 20))[1].ravel().tolist(), symbol.payload) == ([17], "17")


def test_a_data_matrix_has_its_finder_pattern() -> None:
    """Two sides are solid, and the other two alternate (ISO/IEC 16022). OpenCV has no reader for Data Matrix codes."""
    modules = data_matrix("parcel 0042").modules
    assert modules[:, 0].all()
    assert modules[-1].all()
    assert modules[0].tolist() == [1, 0] * (modules.shape[1] // 2)
    assert modules[::-1, -1].tolist() == [1, 0] * (modules.shape[0] // 2)


@pytest.mark.parametrize("split", [dataset.TRAIN, dataset.TEST], ids=lambda split: split.name)
def test_a_picture_depends_only_on_seed_split_and_number(split: dataset.Split) -> None:
    first, again, other = (dataset.scene(3, split, number, 320) for number in (7, 7, 8))
    assert np.array_equal(first.pixels, again.pixels)
    assert first.truths == again.truths
    assert not np.array_equal(first.pixels, other.pixels)


def test_the_test_look_shares_nothing_with_the_training_look() -> None:
    for attribute in ("photographs", "surfaces", "fonts"):
        assert not set(getattr(TRAINING, attribute)) & set(getattr(HELD_OUT, attribute))
    assert HELD_OUT.strength > TRAINING.strength


def test_boxes_are_inside_their_picture() -> None:
    scenes = [dataset.scene(3, dataset.TRAIN, number, 320) for number in range(60)]
    boxes = np.array([truth.box for scene in scenes for truth in scene.truths])
    assert len(boxes) > 60
    assert boxes.min() >= 0
    assert boxes.max() <= 320
    assert {truth.label for scene in scenes for truth in scene.truths} == set(LABELS)


@pytest.mark.parametrize("is_bent", [False, True])
def test_a_box_matches_the_extent_of_the_modules(is_bent: bool) -> None:
    """A black rectangle is turned, tilted and bent. Its box must match the black pixels."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        art = Art(np.full((160, 200, 3), 255, np.uint8), outline_of(40, 30, 150, 130))
        art.pixels[30:130, 40:150] = 0
        if is_bent:
            art = bent(rng, art, 1.0)
        canvas = np.full((400, 400, 3), 255, np.uint8)
        angle = rng.uniform(0, 2 * np.pi)
        corners = corners_of(200, 160) * (1 + rng.uniform(-0.15, 0.15, (4, 2)))
        box = paste(canvas, art, (turned(corners, angle) + 200).astype(np.float32))
        rows, columns = np.nonzero(canvas[..., 0] < 150)
        assert box is not None
        np.testing.assert_allclose(
            box, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), atol=2.5
        )  # the tolerance is needed because the pixels at sharp corners are grey


def test_a_label_has_about_the_resolution_at_which_it_is_seen() -> None:
    art = print_label(np.random.default_rng(1), TRAINING, qr_code("hello"), 60)
    assert 60 <= np.ptp(art.outline[:, 0]) <= 130


def test_the_number_of_every_sample_can_be_read() -> None:
    reader = cv2.QRCodeDetector()
    for number in (0, 7, 43):
        for scene, payload in (
            (samples.picture(number), f"image {number:06}"),
            (samples.belt_frame(number), f"frame {number:06}"),
        ):
            assert samples.read_qr_codes(scene.pixels, [truth.box for truth in scene.truths], reader) >= {payload}


def test_the_belt_moves_in_every_frame() -> None:
    for number in range(0, 300, 37):
        before, after = ({truth.payload: truth.box for truth in samples.belt_frame(number + k).truths} for k in (0, 1))
        moved = [after[payload][0] - before[payload][0] for payload in before.keys() & after.keys()]
        assert len(moved) >= 2
        assert min(moved) > 5


def test_a_score_counts_each_code_once() -> None:
    scene = Scene(
        np.zeros((100, 100, 3), np.uint8),
        (Truth("marker", "1", (0, 0, 20, 20)), Truth("qr_code", "2", (50, 50, 70, 70))),
        (Truth("barcode", "3", (80, 0, 100, 20)),),
    )
    guesses = [
        Guess("marker", 0.9, (1, 1, 20, 20)),
        Guess("marker", 0.8, (0, 0, 19, 19)),  # a second guess for the same code
        Guess("barcode", 0.7, (50, 50, 70, 70)),  # the wrong label
        Guess("barcode", 0.6, (85, 0, 100, 20)),  # for a code that is cut off, so this guess is ignored
    ]
    result = score(scene, guesses)
    assert [truth.payload for truth, _ in result.found] == ["1"]
    assert [truth.payload for truth in result.missed] == ["2"]
    assert [guess.confidence for guess in result.false] == [0.8, 0.7]


def test_the_embedded_model_has_not_become_worse() -> None:
    """This uses the first 100 test images, which are harder than average.

    The documentation has the figures for all test images.
    """
    photographs = [*package_files("ultralytics/assets"), *sorted((SHARED / "images").glob("*.jpg"))]
    report = evaluation.evaluate(3, photographs, pictures=100)
    found, asked = report.recall_from("all", 24)
    assert found >= 0.81 * asked > 140
    assert report.map50["all"] >= 0.86
    assert report.false_per_picture <= 0.3
    assert sum(map(len, report.photographs.values())) <= 0.2 * len(photographs)
