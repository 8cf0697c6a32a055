"""Build a network from a file without a pickle: from its architecture and its weights.

A small file must not be able to take much memory. So the network is first built on PyTorch's device ``meta``, which
computes shapes and allocates nothing, and is compared with the weights.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import (
    BaseModel,
    ClassificationModel,
    DetectionModel,
    OBBModel,
    PoseModel,
    SegmentationModel,
    parse_model,
)

from serve_app.models.checkpoint.architecture import check_architecture, task_of
from serve_app.models.checkpoint.failures import Unaccepted
from serve_app.models.checkpoint.reader import MAX_SETTING_NUMBERS
from serve_app.types import Json, Task

NETWORKS: dict[Task, type[BaseModel]] = {  # Ultralytics' class of the network for each task
    "detect": DetectionModel,
    "segment": SegmentationModel,
    "pose": PoseModel,
    "obb": OBBModel,
    "classify": ClassificationModel,
}
# To build a network and to run it once, PyTorch may compute at most this many numbers for each weight in the file, and
# a fixed number more, because the outputs of the layers need not depend on the number of weights.
_NUMBERS_PER_WEIGHT = 8
_MORE_NUMBERS = 30_000_000
_MAX_NUMBERS = 500_000_000  # for a file of any size; Ultralytics' largest network needs 0.4 billion
_TRIED_SIDE_PX = 256  # with an image of this size, Ultralytics determines a network's strides
_CHANNELS = 3
# Settings that do not change the output, or that we set for each use of the network.
_OTHER_SETTINGS = {
    "_end2end",
    "dynamic",
    "end2end",
    "export",
    "format",
    "inplace",
    "max_det",
    "momentum",
    "np",
    "shape",
    "training",
}


def build_network(architecture: Any, weights: dict[str, torch.Tensor], modules: Json | None) -> BaseModel:
    """Return the network with the weights.

    Raise Unaccepted when the weights do not fit the architecture, or when the network is too large.
    ``modules``: the class and the settings of each module in the checkpoint, which the new network must have, too.
    For an embedded model, ``modules`` is None.
    """
    architecture = check_architecture(architecture)
    activation = Conv.default_act
    try:
        _check_shapes(architecture, weights)
        with torch.no_grad():  # otherwise, the outputs of all layers would be kept in memory until the network has run
            network = NETWORKS[task_of(architecture)](architecture, ch=_CHANNELS, verbose=False)
    finally:
        # Ultralytics changes this default in the whole process, and does not change it back after an error.
        Conv.default_act = activation
    _fuse_like(network, weights)
    network.load_state_dict(weights)
    if modules is not None:
        _check_modules(network, modules)
    return network


def _check_shapes(architecture: Json, weights: dict[str, torch.Tensor]) -> None:
    """Raise Unaccepted unless a network of this architecture has exactly these weights.

    Also raise Unaccepted if building and running the network computes far more numbers than the file has weights.
    """
    numbers = _MORE_NUMBERS + _NUMBERS_PER_WEIGHT * sum(tensor.numel() for tensor in weights.values())
    with torch.device("meta"), torch.no_grad(), _Limit(min(numbers, _MAX_NUMBERS)):
        network = BaseModel()
        network.model, network.save = parse_model(deepcopy(architecture), _CHANNELS, verbose=False)
        network.eval().model[-1].training = True  # the head then returns its inputs, as when strides are determined
        network.predict(torch.empty(1, _CHANNELS, _TRIED_SIDE_PX, _TRIED_SIDE_PX))
        _fuse_like(network, weights)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    if expected != found:
        different = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        raise Unaccepted(f"has weights that do not fit its architecture, such as {different[0]:.80}")


class _Limit(TorchDispatchMode):  # type: ignore[misc]  # mypy does not follow PyTorch
    """Raise Unaccepted when the operations in the ``with`` block have returned more than ``most`` numbers."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        self._left -= sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        if self._left < 0:
            raise Unaccepted("describes a network that needs far more memory than those that Ultralytics ships")
        return result


def _fuse_like(network: BaseModel, weights: dict[str, torch.Tensor]) -> None:
    """Fuse the convolutions and batch normalisations of the network if the checkpoint's were fused.

    Ultralytics fuses them before a prediction, so they are fused in a checkpoint that was saved after a prediction.
    """
    if not any(name.endswith("running_var") for name in weights):
        network.model[-1].end2end = any("one2one" in name for name in weights)
        network.fuse(verbose=False)


def _check_modules(network: BaseModel, modules: Json) -> None:
    """Raise Unaccepted unless the network has exactly the modules of the checkpoint, with the same settings.

    Otherwise, the network could give other results than the trained network. For example, code may have changed an
    activation or a stride, but not the architecture.
    """
    own = {path: module for path, module in network.named_modules(remove_duplicate=False) if path}
    for path in sorted(own.keys() | modules.keys()):
        module, saved = own.get(path), modules.get(path, {"class": "no module", "settings": {}})
        name = type(module).__name__ if module is not None else "no module"
        if name != saved["class"] and (name, saved["class"]) != ("Identity", "Silence"):
            raise Unaccepted(f"has {saved['class']:.80} where its architecture has {name} ({path:.80})")
        for key, old in saved["settings"].items():
            value = _plain(getattr(module, key, None))
            if key not in _OTHER_SETTINGS and value is not None and value != old:
                raise Unaccepted(f"has {path}.{key:.80} {old!r:.80} where its architecture has {value!r:.80}")


def _plain(value: Any) -> Any:
    """Return a setting as it is in JSON, or None if it is no setting."""
    if isinstance(value, torch.Tensor):
        return value.tolist() if value.numel() <= MAX_SETTING_NUMBERS else None
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, (bool, float, int, str)) else None
