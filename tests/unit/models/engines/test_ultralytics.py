from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from ultralytics import RTDETR, YOLO
from ultralytics.nn.tasks import DetectionModel

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models import weights as weights_module
from serve_app.models.engines.ultralytics import load_network
from serve_app.models.load import load
from tests.conftest import trusted


@pytest.mark.parametrize("damage", ["cut", "no metadata", "other shapes", "code", "a function for a layer"])
def test_damaged_safetensors_are_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    whole = weights_module.EMBEDDED / "codes.safetensors"
    path = tmp_path / "codes.safetensors"
    with safe_open(whole, "np") as file:
        weights, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118  # not a dict
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


Given = Callable[[Path], dict[str, Any]]


@pytest.fixture(params=["with its hash", "without its hash"])
def given(request: pytest.FixtureRequest) -> Given:
    """Return a function that returns the settings for a checkpoint.

    If the settings have the checkpoint's hash, Ultralytics reads the checkpoint. Otherwise, our own reader does.
    """
    return trusted if request.param == "with its hash" else lambda path: {"weights": str(path)}


def test_an_rtdetr_checkpoint_is_refused(tmp_path: Path, given: Given) -> None:
    """The output of an RT-DETR has the shape of an end-to-end head, but other contents."""
    RTDETR("rtdetr-l.yaml").save(tmp_path / "rtdetr.pt")
    with pytest.raises(ModelError, match="only YOLO models are supported"):
        load(ModelArgs(**given(tmp_path / "rtdetr.pt"), engine="torch"), has_gpu=False)


def test_a_checkpoint_for_grey_pictures_is_refused(tmp_path: Path, given: Given) -> None:
    yolo = YOLO("yolo11n.yaml")
    yolo.model = DetectionModel("yolo11n.yaml", ch=1, verbose=False)
    yolo.save(tmp_path / "grey.pt")
    with pytest.raises(ModelError, match=r"grey\.pt takes images of 1 channels"):
        load(ModelArgs(**given(tmp_path / "grey.pt"), engine="torch"), has_gpu=False)


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path, given: Given) -> None:
    YOLO("yolo26n-depth.yaml").save(tmp_path / "depth.pt")
    with pytest.raises(ModelError, match=r"task( of depth\.pt)? is 'depth', but the supported"):
        load(ModelArgs(**given(tmp_path / "depth.pt"), engine="torch"), has_gpu=False)
