from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
import yaml
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import BaseModel

from serve_app.models.checkpoint.architecture import HEADS, LAYERS, check_architecture, task_of
from serve_app.models.checkpoint.pickle_classes import CLASSES, KNOWN, SHIPPED_CLASSES
from serve_app.models.engines.network import NETWORKS

SHIPPED = Path(ultralytics.__file__).parent / "cfg" / "models"
NOT_LISTED = ("AutoBackend", "TorchVision", "YOLO", "Ensemble")


def shipped() -> Iterator[dict[str, Any]]:
    """Yield the architectures that Ultralytics ships for the supported tasks, in all their sizes.

    Leave out those with a layer that loads a network of torchvision.
    """
    for path in sorted(SHIPPED.glob("*/*.yaml")):
        architecture = yaml.safe_load(path.read_text())
        layers = {name for _, _, name, _ in architecture["backbone"] + architecture["head"]}
        if architecture["head"][-1][2] in HEADS and "TorchVision" not in layers:
            for scale in architecture.get("scales", [""]):
                yield architecture | {"scale": scale}


def narrow(architecture: dict[str, Any]) -> dict[str, Any]:
    """Return an architecture that is built from the same classes, with far fewer weights if its width can be set."""
    architecture = deepcopy(architecture)
    if architecture["scale"]:
        architecture["scales"][architecture["scale"]][1] = 0.25
    elif "width_multiple" in architecture:
        architecture["width_multiple"] = 0.25
    return architecture


def names_in_checkpoint(network: BaseModel) -> set[str]:
    """Return the names in the checkpoint of a network, with the settings and the loss of a training."""
    network.args, network.criterion = get_cfg(), None
    network.criterion = network.init_criterion()
    buffer = io.BytesIO()
    torch.save({"model": network}, buffer)
    pickle = zipfile.ZipFile(buffer).read("archive/data.pkl")
    return {str(name).replace(" ", ".") for code, name, _ in pickletools.genops(pickle) if code.name == "GLOBAL"}


@pytest.mark.only_with_chaos  # the next test covers every architecture, too
def test_the_list_has_exactly_the_classes_in_the_checkpoints_of_the_shipped_architectures() -> None:
    found: set[str] = set()
    for architecture in shipped():
        if architecture["scale"] == next(iter(architecture.get("scales", [""]))):  # other sizes have the same classes
            found |= names_in_checkpoint(NETWORKS[task_of(architecture)](narrow(architecture), verbose=False))
    assert found & CLASSES == SHIPPED_CLASSES
    assert found <= KNOWN


def test_every_shipped_architecture_is_accepted_and_every_accepted_layer_is_shipped() -> None:
    layers = set()
    for architecture in shipped():
        check_architecture(architecture)
        layers |= {name for _, _, name, _ in architecture["backbone"] + architecture["head"]}
    assert layers == LAYERS.keys() - {"Silence"}  # the name of Identity in older versions of Ultralytics


@pytest.mark.parametrize("name", NOT_LISTED)
def test_a_class_that_loads_files_is_on_no_list(name: str) -> None:
    assert not [full for full in KNOWN if full.endswith(name)]
    assert name not in LAYERS
