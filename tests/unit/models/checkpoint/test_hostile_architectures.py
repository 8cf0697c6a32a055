"""Tests that a hostile architecture in a checkpoint is not built, and is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.load import load
from tests.support.checkpoints import TRUST, with_module


def evaluated(network: Any) -> None:
    network.yaml["activation"] = "__import__('os').mkdir('trace')"


def with_layer(name: str, *arguments: Any, at: int = 1) -> Callable[[Any], object]:
    return lambda network: network.yaml["backbone"].insert(at, [-1, 1, name, list(arguments)])


ARCHITECTURES: dict[str, tuple[Callable[[Any], object], str]] = {
    "an activation that is Python": (evaluated, "a value of activation that Ultralytics does not ship"),
    "an activation with an argument that is Python": (
        lambda network: network.yaml.update(activation="nn.ReLU(__import__('os').mkdir('trace'))"),
        "a value of activation that Ultralytics does not ship",
    ),
    "an activation that is an attribute of a call": (
        lambda network: network.yaml.update(activation="nn.ReLU().register_buffer(1)"),
        "a value of activation that Ultralytics does not ship",
    ),
    "an activation with other arguments than its class has": (
        lambda network: network.yaml.update(activation="nn.ReLU(1, 2, 3)"),
        "has an architecture that Ultralytics cannot build",
    ),
    "a very long activation": (
        lambda network: network.yaml.update(activation=f"nn.ReLU({'(' * 10**6}"),
        "a value of activation that Ultralytics does not ship",
    ),
    "a module whose name has control characters": (
        lambda network: network.model[0].add_module("\x1b[31m\nextra", torch.nn.ReLU()),
        r"has ReLU where its architecture has no module \(model\.0\.\?\[31m\?extra\)",
    ),
    "a layer that loads another file": (with_layer("torch_safe_load", "trace"), r"\[-1, 1, 'torch_safe_load', \['tra"),
    "a layer that downloads": (with_layer("TorchVision", 3, "resnet50", "DEFAULT"), "that Ultralytics does not ship"),
    "a layer of PyTorch that is not shipped": (with_layer("nn.Linear", 10**5, 10**5), "that Ultralytics does not ship"),
    "an argument that is a name in Ultralytics' parser": (with_layer("Conv", "d"), "that Ultralytics does not ship"),
    "too many channels": (with_layer("Conv", 10**6, 3), "that Ultralytics does not ship"),
    "too many repeats": (
        lambda network: network.yaml["backbone"].insert(1, [-1, 10**9, "Conv", [16, 3]]),
        "that Ultralytics does not ship",
    ),
    "too many layers": (
        lambda network: network.yaml["backbone"].extend([[-1, 1, "nn.Identity", []]] * 1000),
        r"has 10\d\d layers in its architecture, not 1 to 200",
    ),
    "too many classes": (lambda network: network.yaml.update(nc=10**6), "a value of nc that"),
    "no head": (lambda network: network.yaml["head"].pop(), "without the head of a supported task"),
    "an input from a later layer": (
        lambda network: network.yaml["backbone"].insert(1, [5, 1, "Conv", [16, 3]]),
        "that Ultralytics does not ship",
    ),
    "a network of far more weights than the file has": (
        lambda network: network.yaml.update(scales={"n": [1.0, 8.0, 8192]}),
        "describes a network that needs far more memory",
    ),
    "activations of 16 GB": (
        lambda network: [with_layer("nn.Upsample", None, 2, "nearest")(network) for _ in range(9)],
        "describes a network that needs far more memory",
    ),
    "an output of 800 MB": (
        lambda network: [
            network.yaml["backbone"].insert(0, [-1, 1, "nn.MaxPool2d", [16, 16, 0]]),
            network.yaml["backbone"].insert(0, [-1, 1, "nn.MaxPool2d", [2, 2, 0]]),
            network.yaml["backbone"].insert(0, [-1, 1, "nn.Upsample", ["None", 2, "nearest"]]),
            network.yaml["backbone"].insert(0, [-1, 1, "nn.Upsample", ["None", 16, "nearest"]]),
        ],
        "describes a network that needs far more memory",
    ),
    "other weights than those of its architecture": (
        lambda network: network.yaml.update(nc=3),
        r"has weights that do not fit its architecture, such as model\.22\.cv3\.0\.2\.bias",
    ),
    "weights with another name": (
        lambda network: network.model[0].register_buffer("extra", torch.zeros(1)),
        r"has weights that do not fit its architecture, such as model\.0\.extra",
    ),
    "another activation than its architecture has": (
        lambda network: setattr(network.model[0], "act", torch.nn.ReLU()),
        r"has ReLU where its architecture has SiLU \(model\.0\.act\)",
    ),
    "another stride than its architecture has": (
        lambda network: setattr(network.model[0].conv, "stride", (1, 1)),
        r"has model\.0\.conv\.stride \[1, 1\] where its architecture has \[2, 2\]",
    ),
    "another activation in only one layer": (
        lambda network: setattr(network.model[1], "act", torch.nn.ReLU()),
        r"has ReLU where its architecture has SiLU \(model\.1\.act\)",
    ),
    "a module that its architecture does not have": (
        lambda network: network.model[0].add_module("extra", torch.nn.ReLU()),
        r"has ReLU where its architecture has no module \(model\.0\.extra\)",
    ),
    "a block without its shortcut": (
        lambda network: setattr(network.model[2].m[0], "add", False),
        r"has model\.2\.m\.0\.add False where its architecture has True",
    ),
    "other strides of the head": (
        lambda network: setattr(network.model[22], "stride", torch.tensor([4.0, 8.0, 16.0])),
        r"has model\.22\.stride \[4\.0, 8\.0, 16\.0\] where its architecture has \[8\.0, 16\.0, 32\.0\]",
    ),
    "a layer with 500 inputs": (
        lambda network: network.yaml["backbone"].insert(1, [[0] * 500, 1, "Concat", [1]]),
        "that Ultralytics does not ship",
    ),
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_hostile_architecture_is_not_built_and_is_refused_in_one_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, says = ARCHITECTURES[kind]
    path = with_module(tmp_path / "hostile.pt", change)
    with pytest.raises(ModelError, match=rf"^model\.weights: hostile\.pt .*{says}") as refusal:
        load(ModelArgs(weights=path, engine="torch", image_size_px=64), has_gpu=False)
    assert "\n" not in refusal.value.detail
    assert f"{TRUST} (SERVE_APP_WEIGHTS_SHA256) to " in refusal.value.detail
    assert not Path("trace").exists()
