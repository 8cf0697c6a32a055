from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.engines import RawOutput
from serve_app.models.load import load
from serve_app.models.self_check import check_shapes, engines_agree
from serve_app.models.shapes import rectangles
from serve_app.types import EngineInfo, InputShape, Pixels
from tests.support import squares
from tests.support.squares import Square

SQUARE, WIDE, TALL = InputShape(64, 64), InputShape(32, 64), InputShape(64, 32)
FREED = InputShape(0, 0)


class GridEngine:
    """An engine with one anchor for each cell of 8 px. It finds one object of 16 px in an image that is not black."""

    concurrency = 1
    takes_batches = False
    preparation = None

    def __init__(self, *, wrong: InputShape | None = None, how: str = "", shift_px: int = 0) -> None:
        self.info = EngineInfo("grid", "v1", "grid", ("dog",), SQUARE, end_to_end=False, rectangles=(WIDE, TALL))
        self.seen: list[InputShape] = []
        self._wrong, self._how, self._shift_px = wrong, how, shift_px

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[RawOutput]:
        (frame,) = frames
        shape = InputShape(*frame.shape[:2])
        self.seen.append(shape)
        is_wrong = shape == self._wrong
        cells = frame.shape[0] * frame.shape[1] // 64
        raw = np.zeros((5, cells + (is_wrong and self._how == "anchors")), np.float32)
        if is_wrong and self._how == "error":
            raise RuntimeError("this shape cannot be computed")
        if is_wrong and self._how == "memory":
            raise MemoryError("bad_alloc")
        if is_wrong and self._how == "NaN":
            raw[0, 1] = np.nan
        if frame.any() and not (is_wrong and self._how == "blind"):
            raw[:, 0] = [16 + (self._shift_px if is_wrong else 0), 16, 16, 16, 0.9]
        return [(raw,)]


def bright(folder: Path, width_px: int, height_px: int) -> Path:
    path = folder / f"{width_px}x{height_px}.png"
    path.write_bytes(squares.encode(np.full((height_px, width_px, 3), 255, np.uint8)))
    return path


def test_every_shape_is_checked() -> None:
    engine = GridEngine()
    check_shapes(engine, None)
    assert sorted(engine.seen) == sorted([SQUARE, WIDE, TALL])
    assert engine.info.shapes == (WIDE, TALL, SQUARE)


@pytest.mark.parametrize("how", ["error", "NaN", "anchors"])
def test_a_rectangle_that_fails_is_removed_and_logged(how: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = GridEngine(wrong=WIDE, how=how)
    with caplog.at_level(logging.WARNING):
        check_shapes(engine, None)
    assert engine.info.shapes == (TALL, SQUARE)
    assert "grid uses inputs of 64x64 instead of 32x64" in caplog.text


@pytest.mark.parametrize("how", ["error", "NaN"])
def test_a_square_that_fails_is_refused(how: str) -> None:
    with pytest.raises(ModelError):
        check_shapes(GridEngine(wrong=SQUARE, how=how), None)


def test_too_little_memory_for_a_rectangle_is_an_error() -> None:
    with pytest.raises(ModelError, match="too little memory"):
        check_shapes(GridEngine(wrong=WIDE, how="memory"), None)


def test_a_rectangle_must_find_something_in_the_known_picture_if_it_holds_it(tmp_path: Path) -> None:
    engine = GridEngine(wrong=WIDE, how="blind")
    check_shapes(engine, bright(tmp_path, 200, 100))
    assert engine.info.rectangles == (TALL,)
    engine = GridEngine(wrong=WIDE, how="blind")
    check_shapes(engine, bright(tmp_path, 100, 200))  # upright, so it gets the other rectangle
    assert engine.info.rectangles == (WIDE, TALL)


@pytest.mark.parametrize("wrong", [SQUARE, WIDE, TALL])
def test_two_precisions_are_compared_with_every_shape(tmp_path: Path, wrong: InputShape) -> None:
    pictures = [bright(tmp_path, 100, 50)] * 25  # all of them get the wide shape
    assert engines_agree(GridEngine(), GridEngine(), pictures)
    assert not engines_agree(GridEngine(), GridEngine(wrong=wrong, shift_px=8), pictures)


def test_two_precisions_with_different_shapes_do_not_agree(tmp_path: Path) -> None:
    other = GridEngine(wrong=WIDE, how="NaN")
    check_shapes(other, None)
    assert not engines_agree(GridEngine(), other, [bright(tmp_path, 100, 50)] * 25)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_a_file_that_only_claims_to_take_any_size_stays_square(tmp_path: Path, engine: str) -> None:
    path = squares.save_onnx(tmp_path / "squares.onnx", claims_any_size=True)
    loaded = load(ModelArgs(weights=path, engine=engine, image_size_px=squares.SIZE_PX), has_gpu=False)
    assert loaded.info.shapes == (InputShape.square(squares.SIZE_PX),)
    assert len(loaded.infer([squares.picture([Square("red", 3, 4)])])) == 1


@pytest.mark.parametrize("engine", ["openvino", "onnx", "torch", "null"])
def test_a_model_that_takes_any_size_gets_rectangles(engine: str) -> None:
    args = ModelArgs(engine=engine, image_size_px=96)
    assert [str(shape) for shape in load(args, has_gpu=False).info.shapes] == ["64x96", "96x64", "96x96"]
    square = args.model_copy(update={"rectangular": False})
    assert load(square, has_gpu=False).info.shapes == (InputShape.square(96),)


@pytest.mark.parametrize("side_px", [704, pytest.param(736, marks=pytest.mark.only_with_chaos)])
def test_a_rectangle_is_not_refused_because_a_quotient_is_rounded(side_px: int) -> None:
    args = ModelArgs(image_size_px=side_px)
    assert load(args, has_gpu=False).info.rectangles == rectangles(InputShape.square(side_px), 32)


def test_the_memory_of_a_rectangle_is_freed_before_the_next_one_is_checked() -> None:
    engine = GridEngine(wrong=WIDE, how="error")
    check_shapes(engine, None, free=lambda: engine.seen.append(FREED))
    assert engine.seen == [SQUARE, WIDE, FREED, TALL, FREED]


def test_a_file_with_a_fixed_size_stays_square(squares_model: Path) -> None:
    assert load(ModelArgs(weights=squares_model), has_gpu=False).info.rectangles == ()
