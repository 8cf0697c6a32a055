from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.engines import Engine
from serve_app.models.engines.openvino import OpenVinoEngine
from serve_app.models.load import load
from serve_app.models.tasks import to_detections
from serve_app.models.weights import EMBEDDED
from serve_app.types import DetectOptions, InputShape
from tests.support import squares
from tests.support.squares import Square

OPTIONS = DetectOptions(confidence=0.3, iou=0.7, max_detections=300)


@pytest.fixture(params=["folder", "onnx"])
def engine(request: pytest.FixtureRequest, squares_model: Path, tmp_path: Path) -> Engine:
    path = squares_model if request.param == "folder" else squares.save_onnx(tmp_path / "squares.onnx")
    return load(ModelArgs(weights=path, threads=1), has_gpu=False)


def test_every_square_is_found_in_its_place(engine: Engine) -> None:
    drawn = [Square("red", 0, 0), Square("green", 20, 7, 250), Square("blue", 36, 36, 240)]
    (raw,) = engine.infer([squares.picture(drawn)])
    found = to_detections(raw, engine.info, OPTIONS)
    assert [engine.info.labels[class_id] for class_id in found.class_id] == ["red", "green", "blue"]
    np.testing.assert_allclose(found.xyxy, [square.box for square in drawn], atol=1e-3)
    np.testing.assert_allclose(found.confidence, [square.confidence for square in drawn], atol=1e-3)


def test_a_batch_returns_each_frames_own_result(engine: Engine) -> None:
    pictures = [squares.picture([Square("red", column, column)]) for column in range(0, 24, 3)]
    for column, raw in zip(range(0, 24, 3), engine.infer(pictures), strict=True):
        found = to_detections(raw, engine.info, OPTIONS)
        assert found.xyxy[:, 0].tolist() == [column * squares.STRIDE_PX]


def test_a_batch_of_read_only_frames_is_read(engine: Engine) -> None:
    """Read-only frames are copied, and the copies must live until the engine has read them."""
    for _ in range(10):
        frames = [squares.picture([Square("blue", column, 3)]) for column in range(30)]
        for frame in frames:
            frame.flags.writeable = False
        for column, raw in enumerate(engine.infer(frames)):
            found = to_detections(raw, engine.info, OPTIONS)
            assert found.xyxy[:, 0].tolist() == [column * squares.STRIDE_PX]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"one \.xml file"):
        load(ModelArgs(weights=tmp_path), has_gpu=False)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metadata.yaml", "task: detect\nnames: {0: red}\n", "no YOLO detection head with the 1 classes"),
        ("metadata.yaml", "task: detect\nnames: {0: red, 2: blue}\n", "does not name its classes"),
        ("metadata.yaml", "task: detect\nnames: 5\n", "does not name its classes"),
        ("metadata.yaml", "- a list\n", "no model metadata"),
        ("metadata.yaml", "a: [", "cannot be read"),
        ("squares.xml", "<net", "OpenVINO cannot read squares.xml"),
        ("squares.bin", "", "OpenVINO cannot read squares.xml"),
    ],
)
def test_a_damaged_export_is_refused_in_one_sentence(
    squares_model: Path, tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    folder = tmp_path / "squares_openvino_model"
    folder.mkdir()
    for path in squares_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=sentence):
        load(ModelArgs(weights=folder), has_gpu=False)


def test_a_model_with_too_few_outputs_for_its_task_is_refused(squares_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "seg_openvino_model"
    folder.mkdir()
    for path in squares_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "metadata.yaml").write_text("task: segment\nnames: {0: red, 1: green, 2: blue}\n")
    with pytest.raises(ModelError, match=r"one output, .* but a segmentation model has two"):
        load(ModelArgs(weights=folder), has_gpu=False)


def test_the_precision_of_an_engine_is_reported(squares_model: Path) -> None:
    assert load(ModelArgs(weights=squares_model, threads=1), has_gpu=False).info.precision == "fp32"


WIDE = InputShape(96, 160)


def noise(shape: InputShape) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape.array, np.uint8)


def codes(folder: Path) -> Engine:
    """Save the embedded model as an OpenVINO folder and load it with inputs of up to 160 px."""
    model = ov.Core().read_model(EMBEDDED / "codes.onnx")
    ov.save_model(model, folder / "codes.xml")
    labels = {0: "qr_code", 1: "data_matrix", 2: "barcode", 3: "marker"}
    (folder / "metadata.yaml").write_text(f"task: detect\nstride: 32\nnames: {labels}\n")
    return load(ModelArgs(weights=folder, image_size_px=160), has_gpu=False)


def test_the_output_for_a_shape_does_not_depend_on_what_ran_before(tmp_path: Path) -> None:
    engine = codes(tmp_path)
    first = [np.array(engine.infer([noise(WIDE)], alone=alone)[0]) for alone in (True, False)]
    for shape in engine.info.shapes:
        engine.infer([noise(shape)])
    again = [np.array(engine.infer([noise(WIDE)], alone=alone)[0]) for alone in (False, True)]
    other = codes(tmp_path)
    other.infer([noise(other.info.input_shape)], alone=False)
    for raw in (*first, *again, other.infer([noise(WIDE)])[0]):
        np.testing.assert_array_equal(raw, first[0])


def test_a_rectangle_is_computed_with_the_loaded_weights_although_the_file_was_replaced(tmp_path: Path) -> None:
    expected = np.array(codes(tmp_path).infer([noise(WIDE)])[0])
    engine = codes(tmp_path)
    size = (tmp_path / "codes.bin").stat().st_size
    with (tmp_path / "codes.bin").open("r+b") as file:
        file.write(bytes(size))
    np.testing.assert_array_equal(engine.infer([noise(WIDE)])[0], expected)


def test_threads_that_need_the_same_rectangle_get_their_own_outputs(tmp_path: Path) -> None:
    engine = codes(tmp_path)
    frames = [np.full_like(noise(WIDE), 60 * number) for number in range(4)]
    found: dict[int, NDArray[np.float32]] = {}
    barrier = threading.Barrier(len(frames))

    def infer(number: int) -> None:
        barrier.wait()
        found[number] = np.array(engine.infer([frames[number]], alone=False)[0])

    threads = [threading.Thread(target=infer, args=[number]) for number in range(len(frames))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(found[number], engine.infer([frame])[0])


def test_the_engine_says_while_it_compiles_a_rectangle(tmp_path: Path) -> None:
    """Otherwise, a long compilation would count as a batch that hangs."""
    engine = codes(tmp_path)
    assert isinstance(engine, OpenVinoEngine)
    preparation, compiler = engine.preparation, engine._core
    seen: list[tuple[bool, float]] = []

    class Watched:
        def compile_model(self, *args: Any) -> ov.CompiledModel:
            seen.append((preparation.running_s > 0, preparation.ended_s_ago))
            return compiler.compile_model(*args)

    engine._core = Watched()
    engine.infer([noise(WIDE)])
    assert seen == [(True, 0)]
    assert preparation.running_s == 0
    assert preparation.ended_s_ago > 0


def test_no_thread_is_bound_to_a_core(tmp_path: Path) -> None:
    """Each copy of a model would bind its threads to the same cores, and leave the other cores idle."""
    engine = codes(tmp_path)
    running = threading.Thread(
        target=lambda: [engine.infer([noise(WIDE)], alone=alone) for alone in [False, True] * 50]
    )
    running.start()
    cores: set[frozenset[int]] = set()
    while running.is_alive():
        for task in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # the thread has ended
                cores.add(frozenset(os.sched_getaffinity(int(task.name))))
    assert cores == {frozenset(os.sched_getaffinity(0))}
