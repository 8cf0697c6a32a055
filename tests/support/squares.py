"""The squares model, which has known answers. Its weights are set by hand, and it finds red, green and blue squares.

In the model input, squares have sides of ``SIDE_PX`` pixels, and lie on a grid with a spacing of ``STRIDE_PX`` pixels.
The model finds each square with its exact box. The model finds each square only once, because the scores of all other
grid positions are zero. The confidence is ``8 * brightness / 255 - 7``, so a test knows the confidence in advance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE_PX = 320
SIDE_PX = 32
STRIDE_PX = 8
LABELS = ("red", "green", "blue")
_CELLS = (SIZE_PX - SIDE_PX) // STRIDE_PX + 1
_BGR = {"red": (0, 0, 1), "green": (0, 1, 0), "blue": (1, 0, 0)}


@dataclass(frozen=True)
class Square:
    """A square in a cell of the model's grid. Its box is in pixels of the model input."""

    label: str
    column: int  # from 0 to _CELLS - 1
    row: int
    brightness: int = 255  # from 0 to 255

    @property
    def confidence(self) -> float:
        return 8 * self.brightness / 255 - 7

    @property
    def box(self) -> tuple[int, int, int, int]:
        left, top = self.column * STRIDE_PX, self.row * STRIDE_PX
        return left, top, left + SIDE_PX, top + SIDE_PX


def picture(squares: list[Square], scale: int = 1) -> np.ndarray:
    """Draw the squares on a black image that is ``scale`` times as large as the model input."""
    pixels = np.zeros((SIZE_PX * scale, SIZE_PX * scale, 3), np.uint8)
    for square in squares:
        left, top, right, bottom = (side * scale for side in square.box)
        pixels[top:bottom, left:right] = np.array(_BGR[square.label]) * square.brightness
    return pixels


def random_squares(rng: np.random.Generator, count: int) -> list[Square]:
    """Return squares with random colours, brightness and positions. They do not touch each other."""
    pitch = SIDE_PX // STRIDE_PX + 1
    cells = [(column, row) for column in range(0, _CELLS, pitch) for row in range(0, _CELLS, pitch)]
    chosen = rng.choice(len(cells), count, replace=False)
    return [
        Square(str(rng.choice(LABELS)), column, row, int(rng.integers(229, 256)))  # confidence from 0.18 to 1
        for column, row in (cells[index] for index in chosen)
    ]


def encode(pixels: np.ndarray, extension: str = ".png") -> bytes:
    """Return the image as the bytes of an image file."""
    return cv2.imencode(extension, pixels)[1].tobytes()


def save_onnx(path: Path, *, claims_any_size: bool = False) -> Path:
    """Save the model as an ONNX file with metadata in the format of Ultralytics.

    ``claims_any_size``: the file says that it takes inputs of any size, but its boxes are those of ``SIZE_PX``.
    """
    sides = ["height", "width"] if claims_any_size else [SIZE_PX, SIZE_PX]
    weights = {
        # For each class, subtract the other two colours from its own colour, so that grey and white score zero.
        "purity": (2 * np.eye(3) - np.ones((3, 3))).astype(np.float32).reshape(3, 3, 1, 1),
        "gain": np.array(8, np.float32),
        "bias": np.array(-7, np.float32),
        "flat": np.array([1, 3, -1], np.int64),
        "boxes": _boxes(),
    }
    nodes = [
        helper.make_node("Conv", ["images", "purity"], ["pure"]),
        helper.make_node("Relu", ["pure"], ["coloured"]),
        helper.make_node("AveragePool", ["coloured"], ["fill"], kernel_shape=[SIDE_PX] * 2, strides=[STRIDE_PX] * 2),
        helper.make_node("Mul", ["fill", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["shifted"]),
        helper.make_node("Relu", ["shifted"], ["score"]),
        helper.make_node("Reshape", ["score", "flat"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *sides])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 7, _CELLS**2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"task": "detect", "names": str(dict(enumerate(LABELS)))})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def save_openvino(folder: Path) -> Path:
    """Save the model as an OpenVINO folder in the format of an Ultralytics export."""
    # OpenVINO is imported late, because ``scripts.gpu_day`` runs the tests of other engines on machines without it.
    import openvino as ov

    folder.mkdir(parents=True)
    source = save_onnx(folder / "squares.onnx")
    ov.save_model(ov.Core().read_model(source), folder / "squares.xml", compress_to_fp16=False)
    source.unlink()
    (folder / "metadata.yaml").write_text(f"task: detect\nnames: {dict(enumerate(LABELS))}\n")
    return folder


def _boxes() -> np.ndarray:
    """Return the centre x, centre y, width and height of every cell, with shape (1, 4, cells)."""
    centre = np.arange(_CELLS, dtype=np.float32) * STRIDE_PX + SIDE_PX / 2
    y, x = np.meshgrid(centre, centre, indexing="ij")
    side = np.full(_CELLS**2, SIDE_PX, np.float32)
    return np.stack([x.ravel(), y.ravel(), side, side])[None].astype(np.float32)
