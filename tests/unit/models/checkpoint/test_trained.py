"""Tests that checkpoints from a training load without their hash, and give the results that Ultralytics gives."""

from __future__ import annotations

import pathlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.data.augment import classify_transforms
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import Detect, DetectionModel, yaml_model_load
from ultralytics.utils.torch_utils import strip_optimizer

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models import export
from serve_app.models.checkpoint.convert import without_pickle
from serve_app.models.engines.metadata import read_metadata
from serve_app.models.engines.ultralytics import load_network
from serve_app.models.load import load
from tests.conftest import needs_shared, trusted
from tests.support.checkpoints import rewrite, tiny_network, train
from tests.support.paths import SHARED

SIDE_PX = 64


@pytest.fixture(
    scope="module", params=["yolov8n", pytest.param("yolo11n", marks=pytest.mark.only_with_chaos), "yolo26n"]
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a network for one epoch, and return the folder with its checkpoints."""
    return train(tmp_path_factory.mktemp(request.param), f"{request.param}.yaml")


def raw_output(network: Any) -> torch.Tensor:
    """Return the output of a network for a random image, which is the same in every call."""
    image = torch.rand((1, 3, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = network.fuse(verbose=False).eval()(image)[0]
    arrays = output if isinstance(output, tuple) else (output,)  # a network with masks has two outputs
    return torch.cat([array.flatten() for array in arrays])


def assert_equal_to_ultralytics(path: Path, folder: Path) -> None:
    """Check that a checkpoint without a hash gives exactly the labels and the output that Ultralytics' loader gives."""
    safe = without_pickle(path, None, folder)
    assert safe.suffix == ".safetensors"
    (ours, metadata), (theirs, their_metadata) = load_network(safe), load_network(path)
    assert read_metadata(metadata) == read_metadata(their_metadata)
    expected = raw_output(theirs)
    assert expected.isfinite().all()
    torch.testing.assert_close(raw_output(ours), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "epoch0.pt"])
def test_a_trained_checkpoint_gives_the_output_that_ultralytics_gives(run: Path, name: str, tmp_path: Path) -> None:
    assert_equal_to_ultralytics(run / name, tmp_path)


def test_a_stripped_checkpoint_gives_the_output_that_ultralytics_gives(run: Path, tmp_path: Path) -> None:
    stripped = Path(shutil.copy(run / "epoch0.pt", tmp_path / "stripped.pt"))
    strip_optimizer(stripped)
    assert stripped.stat().st_size < (run / "epoch0.pt").stat().st_size / 2
    assert_equal_to_ultralytics(stripped, tmp_path)


@needs_shared
def test_the_published_yolov8n_gives_the_output_that_ultralytics_gives(tmp_path: Path) -> None:
    assert_equal_to_ultralytics(SHARED / "weights" / "yolov8n.pt", tmp_path)


@pytest.mark.parametrize("architecture", ["yolov8n.yaml", "yolo26n.yaml"])
@pytest.mark.parametrize("is_end_to_end", [False, True])
def test_a_checkpoint_that_was_saved_after_a_prediction_is_fused_and_loads(
    architecture: str, is_end_to_end: bool, tmp_path: Path
) -> None:
    network = tiny_network(architecture)
    network.end2end = is_end_to_end
    network.fuse(verbose=False)
    torch.save({"model": network}, tmp_path / "fused.pt")
    assert_equal_to_ultralytics(tmp_path / "fused.pt", tmp_path)


@pytest.mark.parametrize(
    "architecture",
    [
        *("yolov5n.yaml", "yolov10n.yaml", "yolo12n.yaml"),
        *(
            pytest.param(name, marks=pytest.mark.only_with_chaos)
            for name in ("yolov6n.yaml", "yolov8n-ghost.yaml", "yolov9t.yaml")
        ),
    ],
)
def test_a_checkpoint_of_another_shipped_architecture_loads(architecture: str, tmp_path: Path) -> None:
    torch.save({"model": tiny_network(architecture)}, tmp_path / "other.pt")
    assert_equal_to_ultralytics(tmp_path / "other.pt", tmp_path)


class Attribute:
    """An object whose pickle reads an attribute of a class, as some published checkpoints do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (Detect, "forward")


def test_a_checkpoint_with_getattr_a_path_and_numbers_of_numpy_loads(tmp_path: Path) -> None:
    network = tiny_network()
    network.hook = Attribute()
    training = {"project": pathlib.PosixPath("runs"), "imgsz": 320}
    torch.save(
        {"ema": network, "model": None, "best_fitness": np.float64(0.5), "train_args": training}, tmp_path / "mixed.pt"
    )
    assert_equal_to_ultralytics(tmp_path / "mixed.pt", tmp_path)


@pytest.mark.parametrize("names", [["a", "b"], ("a", "b")])
def test_class_names_may_be_a_list_or_a_tuple(names: Any, tmp_path: Path) -> None:
    network = tiny_network()
    network.names = names
    torch.save({"model": network}, tmp_path / "named.pt")
    assert load_network(without_pickle(tmp_path / "named.pt", None, tmp_path))[1]["names"] == {0: "a", 1: "b"}


def test_weights_in_bf16_load(tmp_path: Path) -> None:
    torch.save({"model": tiny_network().bfloat16()}, tmp_path / "bf16.pt")
    assert_equal_to_ultralytics(tmp_path / "bf16.pt", tmp_path)


@pytest.mark.parametrize("activation", ["nn.ReLU(inplace=True)", "torch.nn.LeakyReLU(0.1)", "nn.ELU()"])
def test_an_activation_with_numbers_as_its_arguments_loads(activation: str, tmp_path: Path) -> None:
    architecture = yaml_model_load("yolov8n.yaml") | {"activation": activation}
    default = Conv.default_act
    try:
        network = DetectionModel(architecture, nc=2, verbose=False)
    finally:
        Conv.default_act = default  # Ultralytics changes it in the whole process
    torch.save({"model": network}, tmp_path / "other.pt")
    assert_equal_to_ultralytics(tmp_path / "other.pt", tmp_path)


def test_a_file_in_the_format_from_before_archives_loads_with_its_hash(tmp_path: Path) -> None:
    torch.save({"model": tiny_network()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    settings = {"engine": "torch", "image_size_px": SIDE_PX}
    args = ModelArgs.model_validate(trusted(tmp_path / "old.pt") | settings)
    assert load(args, has_gpu=False).info.labels == ("class 0", "class 1")


def test_a_whole_network_without_a_dictionary_around_it_loads(tmp_path: Path) -> None:
    torch.save(tiny_network(), tmp_path / "network.pt")
    network, metadata = load_network(without_pickle(tmp_path / "network.pt", None, tmp_path))
    assert read_metadata(metadata).labels == ("class 0", "class 1")
    torch.testing.assert_close(raw_output(network), raw_output(tiny_network().float()), rtol=0, atol=0)


@pytest.mark.only_with_chaos  # tests/parity compares exports, and a test of weights keeps one
@pytest.mark.parametrize("run", ["yolo26n"], indirect=True)  # tests/parity covers other architectures
def test_openvino_gives_the_same_output_with_and_without_the_hash_and_the_export_is_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"safe": {"weights": run / "best.pt"}, "trusted": trusted(run / "best.pt")}
    safe, its_hash = (
        ModelArgs.model_validate(
            {**one, "engine": "openvino", "image_size_px": SIDE_PX, "threads": 1, "cache_dir": tmp_path / name}
        )
        for name, one in given.items()
    )
    ours, theirs = load(safe, has_gpu=False), load(its_hash, has_gpu=False)
    assert ours.info == theirs.info
    frame = np.random.default_rng(0).integers(0, 255, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    np.testing.assert_array_equal(ours.infer([frame])[0], theirs.infer([frame])[0])
    monkeypatch.setattr(export, "without_pickle", None)  # with an export in the cache, the checkpoint is not read
    assert load(safe, has_gpu=False).info == ours.info


def test_ultralytics_never_opens_a_checkpoint_without_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was loaded")

    monkeypatch.setattr(torch, "load", refuse)
    torch.save({"model": tiny_network()}, tmp_path / "any.pt")
    settings = {"engine": "torch", "image_size_px": SIDE_PX}
    load(ModelArgs.model_validate({"weights": tmp_path / "any.pt"} | settings), has_gpu=False)
    with pytest.raises(ModelError):
        load(ModelArgs.model_validate(trusted(tmp_path / "any.pt") | settings), has_gpu=False)


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        ("yolo26n-depth.yaml", r"^the task of other\.pt is 'depth', but the supported tasks are classify, detect, obb"),
        ("yolov8s-world.yaml", r"other\.pt needs ultralytics\.nn\.tasks\.WorldModel, .*weights_sha256"),
    ],
)
def test_a_checkpoint_of_another_kind_of_model_is_refused(architecture: str, says: str, tmp_path: Path) -> None:
    YOLO(architecture).save(tmp_path / "other.pt")
    with pytest.raises(ModelError, match=says):
        load(ModelArgs(weights=tmp_path / "other.pt", engine="torch"), has_gpu=False)


def test_a_checkpoint_of_the_yolov5_repository_is_refused_with_its_own_advice(tmp_path: Path) -> None:
    torch.save({"model": tiny_network()}, tmp_path / "v8.pt")
    path = rewrite(
        tmp_path / "v8.pt",
        tmp_path / "v5.pt",
        lambda data: data.replace(b"cultralytics.nn.tasks\nDetectionModel", b"cmodels.yolo\nDetectionModel"),
    )
    with pytest.raises(ModelError, match=r"v5\.pt is a checkpoint of the YOLOv5 repository: export it as ONNX there"):
        load(ModelArgs(weights=path), has_gpu=False)


@pytest.mark.parametrize(
    "architecture",
    ["yolov8n-seg", "yolo26n-seg", "yolov8n-pose", "yolo26n-pose", "yolo11n-obb", "yolo26n-obb", "yolo11n-cls"],
)
def test_a_checkpoint_for_another_task_gives_the_output_that_ultralytics_gives(
    architecture: str, tmp_path: Path
) -> None:
    yolo = YOLO(f"{architecture}.yaml")
    network = yolo.model
    network.task, network.args = yolo.task, get_cfg()
    network.criterion = network.init_criterion()
    if yolo.task == "pose":
        network.kpt_names = {0: [f"point {number}" for number in range(17)]}
    if yolo.task == "classify":
        network.transforms = classify_transforms(SIDE_PX)
    torch.save({"model": network, "train_args": {"imgsz": SIDE_PX}}, tmp_path / "task.pt")
    assert_equal_to_ultralytics(tmp_path / "task.pt", tmp_path)


def test_a_classification_model_that_normalises_its_images_is_refused(tmp_path: Path) -> None:
    """Ultralytics would subtract the mean, but our engines do not."""
    network = YOLO("yolo11n-cls.yaml").model
    network.transforms = classify_transforms(SIDE_PX, mean=(0.5, 0.5, 0.5))
    torch.save({"model": network}, tmp_path / "mean.pt")
    with pytest.raises(ModelError, match=r"normalises images with a mean of \[0\.5, 0\.5, 0\.5\] instead of 0"):
        without_pickle(tmp_path / "mean.pt", None, tmp_path)
