from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic
from safetensors import safe_open
from safetensors.numpy import save_file
from ultralytics import RTDETR, YOLO

from scripts.codes import samples
from scripts.codes.evaluation import detect
from scripts.codes.score import score
from scripts.codes.symbols import LABELS
from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models import weights as weights_module
from serve_app.models.engines.device import ExecutionContext, to_input
from serve_app.models.engines.openvino import OpenVinoEngine
from serve_app.models.engines.ultralytics import load_network
from serve_app.models.load import load
from serve_app.models.tasks.detect import to_detections
from serve_app.types import DetectOptions, InputShape
from tests.conftest import trusted
from tests.support import squares
from tests.support.squares import Square

OPTIONS = DetectOptions(confidence=0.3, iou=0.7, max_detections=300)


@pytest.fixture(params=["folder", "onnx"])
def engine(request: pytest.FixtureRequest, squares_model: Path, tmp_path: Path) -> OpenVinoEngine:
    path = squares_model if request.param == "folder" else squares.save_onnx(tmp_path / "squares.onnx")
    return load(ModelArgs(weights=path, threads=1), has_gpu=False)


def test_every_square_is_found_where_it_is(engine: OpenVinoEngine) -> None:
    drawn = [Square("red", 0, 0), Square("green", 20, 7, 250), Square("blue", 36, 36, 240)]
    (raw,) = engine.infer([squares.picture(drawn)])
    found = to_detections(raw, OPTIONS, end_to_end=engine.info.end_to_end)
    assert [engine.info.labels[class_id] for class_id in found.class_id] == ["red", "green", "blue"]
    np.testing.assert_allclose(found.xyxy, [square.box for square in drawn], atol=1e-3)
    np.testing.assert_allclose(found.confidence, [square.confidence for square in drawn], atol=1e-3)


def test_a_batch_answers_each_frame_with_its_own(engine: OpenVinoEngine) -> None:
    pictures = [squares.picture([Square("red", column, column)]) for column in range(0, 24, 3)]
    for column, raw in zip(range(0, 24, 3), engine.infer(pictures), strict=True):
        found = to_detections(raw, OPTIONS, end_to_end=False)
        assert found.xyxy[:, 0].tolist() == [column * squares.STRIDE_PX]


def test_a_batch_of_read_only_frames_is_read(engine: OpenVinoEngine) -> None:
    """Frames that came as bytes: each is copied, and the copies live as long as the engine reads them."""
    for _ in range(10):
        frames = [squares.picture([Square("blue", column, 3)]) for column in range(30)]
        for frame in frames:
            frame.flags.writeable = False
        for column, raw in enumerate(engine.infer(frames)):
            found = to_detections(raw, OPTIONS, end_to_end=False)
            assert found.xyxy[:, 0].tolist() == [column * squares.STRIDE_PX]


def test_the_version_is_that_of_the_weights(squares_model: Path, tmp_path: Path) -> None:
    onnx = squares.save_onnx(tmp_path / "a.onnx")
    versions = {load(ModelArgs(weights=path), has_gpu=False).info.version for path in (squares_model, onnx, onnx)}
    assert len(versions) == 2


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.pt", None, "there is no"),
        ("model.h5", b"", r"reads a \.pt file or a \.onnx file or an exported folder, not model\.h5"),
        ("model", b"", r"reads a \.pt file or a \.onnx file or an exported folder, not model"),
        ("broken.onnx", b"nonsense", "cannot read"),
        ("broken.pt", b"nonsense", r"broken\.pt is a pickle"),
    ],
)
def test_weights_that_cannot_be_served_are_refused_in_a_sentence(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=sentence):
        load(ModelArgs(weights=path, cache_dir=tmp_path / "cache"), has_gpu=False)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_weights_that_are_not_for_us_are_refused_in_a_sentence(public_folder: Path) -> None:
    script = (
        "import sys, os; from pathlib import Path; from serve_app.models import load, weights\n"
        "from serve_app.config import ModelArgs; from serve_app.errors import ModelError\n"
        "os.setuid(65534)\n"
        "for use in (weights.check_weights, lambda args: load.load(args, has_gpu=False)):\n"
        "    try: use(ModelArgs(weights=Path(sys.argv[1])))\n"
        "    except ModelError as exc: print(exc)\n"
    )
    path = public_folder / "model.onnx"
    path.write_bytes(b"never read")
    path.chmod(0o600)
    said = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout
    assert re.match(
        r"model\.weights: .*model\.onnx may not be read by user 65534\nmodel\.weights.*cannot be used", said
    )


def test_a_pickle_is_loaded_only_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "any.pt"
    path.write_bytes(b"never read")
    found = trusted(path)["weights_sha256"]
    with pytest.raises(ModelError, match=f"is a pickle.*to {found}"):
        load(ModelArgs(weights=path), has_gpu=False)
    with pytest.raises(ModelError, match=f"is not that of any.pt, which is {found}"):
        load(ModelArgs(weights=path, weights_sha256="0" * 64), has_gpu=False)


class Evil:
    """What a pickle of it does when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_pickle_that_is_swapped_once_it_was_checked_is_not_loaded(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, mark = tmp_path / "any.pt", tmp_path / "mark"
    path.write_bytes(b"no model")
    args = ModelArgs(**trusted(path), engine=engine, cache_dir=tmp_path / "cache")
    check = weights_module._check_hash

    def swap(checked: Path, expected: str | None) -> None:
        check(checked, expected)
        torch.save(Evil(mark), path)

    monkeypatch.setattr(weights_module, "_check_hash", swap)
    with pytest.raises(ModelError):
        load(args, has_gpu=False)
    assert not mark.exists()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"one \.xml file"):
        load(ModelArgs(weights=tmp_path), has_gpu=False)


def test_another_task_is_refused_in_a_sentence(squares_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "seg_openvino_model"
    folder.mkdir()
    for path in squares_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "metadata.yaml").write_text("task: segment\nnames: {0: red, 1: green, 2: blue}\n")
    with pytest.raises(ModelError, match="'segment'; only detection"):
        load(ModelArgs(weights=folder), has_gpu=False)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metadata.yaml", "task: detect\nnames: {0: red}\n", "neither of YOLO's two heads for 1 classes"),
        ("metadata.yaml", "task: detect\nnames: {0: red, 2: blue}\n", "does not name its classes"),
        ("metadata.yaml", "task: detect\nnames: 5\n", "does not name its classes"),
        ("metadata.yaml", "- a list\n", "no metadata"),
        ("metadata.yaml", "a: [", "cannot be read"),
        ("squares.xml", "<net", "OpenVINO cannot read squares.xml"),
        ("squares.bin", "", "OpenVINO cannot read squares.xml"),
    ],
)
def test_a_damaged_export_is_refused_in_a_sentence(
    squares_model: Path, tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    folder = tmp_path / "squares_openvino_model"
    folder.mkdir()
    for path in squares_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=sentence):
        load(ModelArgs(weights=folder), has_gpu=False)


def test_a_gpu_is_not_held_in_vain(squares_model: Path) -> None:
    with pytest.raises(ModelError, match=r"set model\.engine to openvino"):
        load(ModelArgs(weights=squares_model), has_gpu=True)
    assert load(ModelArgs(weights=squares_model, engine="openvino"), has_gpu=True).info.engine == "openvino"


def test_the_torch_engine_wants_a_checkpoint(squares_model: Path) -> None:
    with pytest.raises(ModelError, match=r"reads a .pt file"):
        load(ModelArgs(weights=squares_model, engine="torch"), has_gpu=False)


@pytest.mark.parametrize("engine", ["openvino", "onnx", "torch"])
def test_the_embedded_model_finds_every_code_of_the_samples(engine: str) -> None:
    """Unset weights are the embedded ones, in every engine."""
    codes = load(ModelArgs(engine=engine, threads=1), has_gpu=False)
    assert (codes.info.name, codes.info.labels) == ("codes", LABELS)
    for scene in [*(samples.picture(number) for number in range(4)), *(samples.belt_frame(40 * n) for n in range(4))]:
        result = score(scene, detect(codes, scene.pixels, 0.5), least_iou=0.7)
        assert (result.missed, result.false) == ((), ())


def test_the_embedded_model_is_small_and_no_pickle() -> None:
    files = {path.name: path for path in weights_module.EMBEDDED.iterdir()}
    assert files.keys() == {"codes.onnx", "codes.safetensors"}
    assert sum(path.stat().st_size for path in files.values()) <= 3_000_000
    onnx.checker.check_model(files["codes.onnx"])
    with safe_open(files["codes.safetensors"], "np") as file:
        assert {file.get_tensor(name).dtype.name for name in file.keys()} <= {"float16", "int64"}  # noqa: SIM118  # it is no dict


@pytest.mark.parametrize("damage", ["cut", "no metadata", "other shapes", "code", "a function for a layer"])
def test_damaged_safetensors_are_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    whole = weights_module.EMBEDDED / "codes.safetensors"
    path = tmp_path / "codes.safetensors"
    with safe_open(whole, "np") as file:
        weights, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118  # it is no dict
    if damage == "cut":
        path.write_bytes(whole.read_bytes()[:5000])
    elif damage == "no metadata":
        save_file(weights, path)
    elif damage == "a function for a layer":
        architecture = json.loads(metadata["architecture"])
        architecture["head"].append([-1, 1, "torch_safe_load", ["/dev/null"]])
        save_file(weights, path, metadata | {"architecture": json.dumps(architecture)})
    elif damage == "code":
        architecture = json.loads(metadata["architecture"]) | {"activation": "__import__('os').abort()"}
        save_file(weights, path, metadata | {"architecture": json.dumps(architecture)})
    else:
        save_file({name: value.ravel() for name, value in weights.items()}, path, metadata)
    with pytest.raises(ModelError, match=r"codes\.safetensors is damaged"):
        load_network(path)


def test_onnx_runtime_finds_the_squares_too(tmp_path: Path) -> None:
    path = squares.save_onnx(tmp_path / "squares.onnx")
    engine = load(ModelArgs(weights=path, engine="onnx", threads=1), has_gpu=False)
    frames = [squares.picture([Square("red", 0, 0), Square("green", 20, 7, 250)]), squares.picture([])]
    found = [to_detections(raw, OPTIONS, end_to_end=False) for raw in engine.infer(frames)]
    assert [engine.info.labels[class_id] for class_id in found[0].class_id] == ["red", "green"]
    assert [len(one) for one in found] == [2, 0]
    assert (engine.info.engine, engine.info.precision) == ("onnx", "fp32")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"precision": "int8"}, "int8 is made of a .pt file"),
        ({"precision": "fp16"}, "openvino engine cannot be told to compute in fp16"),
        (
            {"engine": "onnx", "precision": "bf16"},
            "onnx engine cannot be told to compute in bf16: model.precision is auto",
        ),
        ({"engine": "torch", "precision": "fp16"}, "does not compute in fp16 on a CPU"),
        ({"engine": "torch", "precision": "int8"}, "torch engine cannot be told to compute in int8"),
        ({"engine": "torch", "precision": "bf16"}, "torch engine cannot be told to compute in bf16"),
    ],
)
def test_a_precision_that_an_engine_lacks_is_refused_in_a_sentence(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        load(ModelArgs(threads=1, **settings), has_gpu=False)


@pytest.mark.parametrize(("folder", "sentence"), [(None, "needs model.calibration_dir"), ("", "there is no picture")])
def test_int8_asks_for_pictures(tmp_path: Path, folder: str | None, sentence: str) -> None:
    weights = tmp_path / "any.pt"
    weights.write_bytes(b"never read")
    calibration_dir = None if folder is None else tmp_path / folder
    args = ModelArgs(**trusted(weights), precision="int8", calibration_dir=calibration_dir, cache_dir=tmp_path)
    with pytest.raises(ModelError, match=sentence):
        load(args, has_gpu=False)


def test_a_precision_is_refused_before_anything_is_exported(tmp_path: Path) -> None:
    weights = tmp_path / "any.pt"
    weights.write_bytes(b"never read")
    with pytest.raises(ModelError, match="cannot be told to compute in bf16"):
        load(
            ModelArgs(**trusted(weights), engine="onnx", precision="bf16", cache_dir=tmp_path / "cache"), has_gpu=False
        )


@pytest.mark.parametrize("library", ["onnx", "onnxruntime", "tensorrt"])
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    (tmp_path / "any.pt").write_bytes(b"never read")
    version, find_spec = importlib.metadata.version, importlib.util.find_spec

    def without(name: str) -> str:
        if name == library:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else find_spec(name))
    engine = "tensorrt" if library == "tensorrt" else "onnx"
    args = ModelArgs(**trusted(tmp_path / "any.pt"), engine=engine, cache_dir=tmp_path)
    with pytest.raises(ModelError, match=rf"is an extra: pip install 'sightline\[{engine}\]'"):
        load(args, has_gpu=engine == "tensorrt")


def test_a_detector_that_is_no_yolo_is_refused(tmp_path: Path) -> None:
    """Its output has an end-to-end head's shape, and other numbers in it."""
    RTDETR("rtdetr-l.yaml").save(tmp_path / "rtdetr.pt")
    with pytest.raises(ModelError, match="only YOLO models are served"):
        load(ModelArgs(**trusted(tmp_path / "rtdetr.pt"), engine="torch"), has_gpu=False)


def test_who_comes_after_a_killed_export_waits_for_it(tmp_path: Path) -> None:
    """It goes on alone, and its file is used; nothing else is left in the cache."""
    YOLO("yolov8n.yaml").save(tmp_path / "untrained.pt")
    args = trusted(tmp_path / "untrained.pt") | {"image_size_px": 64, "cache_dir": str(tmp_path / "cache")}
    program = (
        "import sys, json; from serve_app.config import ModelArgs; from serve_app.models.load import load;"
        "load(ModelArgs(**json.loads(sys.argv[1])), has_gpu=False)"
    )
    with subprocess.Popen([sys.executable, "-c", program, json.dumps(args)]) as first:
        exporting = psutil.Process(first.pid).children
        while not any("serve_app.models.engines.ultralytics" in process.cmdline() for process in exporting()):
            assert first.poll() is None
            time.sleep(0.01)
        first.kill()
    assert load(ModelArgs.model_validate(args), has_gpu=False).info.input_shape == (64, 64)
    model, lock = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert lock == f"{model}.lock"


def test_a_quantised_onnx_file_is_said_to_be_int8(tmp_path: Path) -> None:
    quantize_dynamic(squares.save_onnx(tmp_path / "squares.onnx"), tmp_path / "int8.onnx")
    assert load(ModelArgs(weights=tmp_path / "int8.onnx", engine="onnx"), has_gpu=False).info.precision == "int8"


@pytest.mark.parametrize(("weights", "sentence"), [("any.onnx", "reads a .pt file"), ("any.pt", "needs a GPU")])
def test_tensorrt_says_what_it_lacks(tmp_path: Path, weights: str, sentence: str) -> None:
    (tmp_path / weights).write_bytes(b"never read")
    with pytest.raises(ModelError, match=sentence):
        load(ModelArgs(**trusted(tmp_path / weights), engine="tensorrt"), has_gpu=False)


def test_a_lane_gives_each_frame_its_own_rows() -> None:
    """On the CPU: what a GPU does between its network's kernels."""

    def step(frames: torch.Tensor) -> torch.Tensor:
        (red, green, blue) = to_input(frames, torch.float32).mean((2, 3)).unbind(1)
        return torch.stack([red, green, blue], 1)[:, None]

    context = ExecutionContext(step, torch.device("cpu"), input_shape=InputShape.square(32), max_batch_size=4)
    colours = [(0, 0, 255), (0, 51, 0), (255, 0, 0)]  # BGR
    for count in (3, 1, 2):
        frames = [np.full((32, 32, 3), colour, np.uint8) for colour in colours[:count]]
        assert [rows.round(3).astype(float).round(3).tolist() for rows in context.infer(frames)] == [
            [[1.0, 0.0, 0.0]], [[0.0, 0.2, 0.0]], [[0.0, 0.0, 1.0]]
        ][:count]  # fmt: skip
    with pytest.raises(IndexError):
        context.infer([np.zeros((32, 32, 3), np.uint8)] * 5)


def test_what_an_engine_computes_in_is_said(squares_model: Path) -> None:
    assert load(ModelArgs(weights=squares_model, threads=1), has_gpu=False).info.precision == "fp32"


def test_a_model_that_computes_no_numbers_is_refused(tmp_path: Path) -> None:
    path = squares.save_onnx(tmp_path / "squares.onnx")
    broken = onnx.load(path)
    (boxes,) = (tensor for tensor in broken.graph.initializer if tensor.name == "boxes")
    boxes.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(boxes) * np.nan, "boxes"))
    onnx.save(broken, path)
    with pytest.raises(ModelError, match="produces NaN or infinite values"):
        load(ModelArgs(weights=path), has_gpu=False)


def test_a_model_has_to_find_something_in_the_picture_that_it_is_to_know(squares_model: Path, tmp_path: Path) -> None:
    known, blank = tmp_path / "known.png", tmp_path / "blank.png"
    known.write_bytes(squares.encode(squares.picture([Square("red", 3, 4)])))
    blank.write_bytes(squares.encode(squares.picture([])))
    assert load(ModelArgs(weights=squares_model, known_picture=known), has_gpu=False).info.name == "squares"
    with pytest.raises(ModelError, match="finds nothing"):
        load(ModelArgs(weights=squares_model, known_picture=blank), has_gpu=False)
    blank.write_bytes(b"no picture")
    with pytest.raises(ModelError, match=r"^model\.known_picture: blank\.png cannot be read"):
        load(ModelArgs(weights=squares_model, known_picture=blank), has_gpu=False)
