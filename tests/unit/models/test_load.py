from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from scripts.codes import samples
from scripts.codes.evaluation import detect
from scripts.codes.score import score
from scripts.codes.symbols import LABELS
from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.load import load
from tests.support import squares
from tests.support.squares import Square


@pytest.mark.parametrize("engine", ["openvino", "onnx", "torch"])
def test_the_embedded_model_finds_every_code_in_the_samples(engine: str) -> None:
    """Every engine loads the embedded model when no weights are set."""
    codes = load(ModelArgs(engine=engine, threads=1), has_gpu=False)
    assert (codes.info.name, codes.info.labels) == ("codes", LABELS)
    for scene in [*(samples.picture(number) for number in range(4)), *(samples.belt_frame(40 * n) for n in range(4))]:
        result = score(scene, detect(codes, scene.pixels, 0.5), least_iou=0.7)
        assert (result.missed, result.false) == ((), ())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"precision": "int8"}, "int8 needs a .pt file"),
        ({"precision": "fp16"}, "openvino engine does not support fp16"),
        ({"engine": "onnx", "precision": "bf16"}, "onnx engine does not support bf16; set it to one of: auto"),
        ({"engine": "torch", "precision": "fp16"}, "does not support fp16 on a CPU"),
        ({"engine": "torch", "precision": "int8"}, "torch engine does not support int8"),
        ({"engine": "torch", "precision": "bf16"}, "torch engine does not support bf16"),
    ],
)
def test_an_unsupported_precision_is_refused_in_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        load(ModelArgs(threads=1, **settings), has_gpu=False)


def test_a_model_that_produces_nan_is_refused(tmp_path: Path) -> None:
    path = squares.save_onnx(tmp_path / "squares.onnx")
    broken = onnx.load(path)
    (boxes,) = (tensor for tensor in broken.graph.initializer if tensor.name == "boxes")
    boxes.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(boxes) * np.nan, "boxes"))
    onnx.save(broken, path)
    with pytest.raises(ModelError, match="produces NaN or infinite values"):
        load(ModelArgs(weights=path), has_gpu=False)


def test_a_model_must_find_something_in_its_known_picture(squares_model: Path, tmp_path: Path) -> None:
    known, blank = tmp_path / "known.png", tmp_path / "blank.png"
    known.write_bytes(squares.encode(squares.picture([Square("red", 3, 4)])))
    blank.write_bytes(squares.encode(squares.picture([])))
    assert load(ModelArgs(weights=squares_model, known_picture=known), has_gpu=False).info.name == "squares"
    with pytest.raises(ModelError, match="finds nothing"):
        load(ModelArgs(weights=squares_model, known_picture=blank), has_gpu=False)
    blank.write_bytes(b"no image")
    with pytest.raises(ModelError, match=r"^model\.known_picture: blank\.png cannot be read"):
        load(ModelArgs(weights=squares_model, known_picture=blank), has_gpu=False)
