"""Build networks with random weights that find objects, and whose scores differ from place to place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.utils import DEFAULT_CFG_DICT

from serve_app.images.letterbox import letterbox
from serve_app.models.engines.network import NETWORKS
from tests.parity.pictures import colourful, photographs

SIZE_PX = 640
CLEAR = 0.4  # a score well above THRESHOLD, so that a detection is no borderline case


_CLASSES = {"classify": 20, "pose": 2, "segment": 8, "obb": 8}  # few, so that the models are small
_DISTANCE = (4.0, 0.5)  # from an anchor to a side of its box, in strides, if the head has one number for each side
_CLEAR_SCORES = 100  # of one image


def save_untrained(kind: str, folder: Path) -> Path:
    """Initialise a detection model randomly, raise its class biases until it finds objects, and save it.

    ``kind``: the name of an architecture, such as ``yolo26n``. If it has an end-to-end head, "end-to-end" may follow.
    """
    yolo, network, head, end_to_end = _new(kind, 80)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # amplify differences between positions
                module.weight.mul_(1.8)
        if end_to_end:
            _keep_end_to_end(network)
        branches = head.one2one_cv3 if end_to_end else head.cv3
        for branch, output in _outputs(network, branches, _model_input([colourful()], SIZE_PX)):
            # Limit the factor, because a checkpoint is saved in fp16 and must not overflow.
            branch.weight.mul_((1 / output.std(dim=(2, 3)).mean()).clamp(max=1e5))
        for _ in range(80):
            if _confident(network) >= 200:
                break
            for branch in branches:
                branch[-1].bias.add_(0.25)
    return _save(yolo, kind, folder, SIZE_PX)


def save_untrained_task(kind: str, folder: Path, size_px: int) -> Path:
    """Initialise a model for another task randomly, and save it, so that its results differ from image to image.

    ``kind``: the name of an architecture, such as ``yolo11n-pose``, perhaps with "end-to-end". ``size_px``: the side of
    the images for which the outputs of its layers are normalised.
    """
    yolo, network, head, end_to_end = _new(kind, 0)
    noise = np.random.default_rng(0).integers(0, 256, (size_px, size_px, 3), np.uint8)  # as in the check at start
    images = _model_input([colourful(size_px), noise, *photographs()], size_px)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()(images)  # the normalisations take the statistics of these images
        if end_to_end:
            _keep_end_to_end(network)
        if network.task == "classify":
            _normalise(network, [[head.linear]], images)
            return _save(yolo, kind, folder, size_px)
        prefix = "one2one_" if end_to_end else ""
        boxes, scores, extras = (getattr(head, f"{prefix}cv{number}") for number in (2, 3, 4))
        _normalise(network, boxes, images, *(_DISTANCE if head.reg_max == 1 else ()))
        _normalise(network, scores, images)
        if hasattr(extras[0][-1], "weight"):  # not a block of several layers
            _normalise(network, extras, images)
        found = _outputs(network, scores, images[:1])
        best = torch.cat([output.amax(1).flatten() for _, output in found]).sort(descending=True).values
        for layer, _ in found:
            layer.bias.add_(math.log(CLEAR / (1 - CLEAR)) - best[_CLEAR_SCORES])
    return _save(yolo, kind, folder, size_px)


def _new(kind: str, classes: int) -> tuple[YOLO, Any, Any, bool]:
    """Return a model, its network, its head, and whether the head is end-to-end. 0 classes: a few."""
    torch.manual_seed(0)
    name, _, end_to_end = kind.partition(" ")
    yolo = YOLO(f"{name}.yaml")
    classes = classes or _CLASSES[yolo.task]
    yolo.model = network = NETWORKS[yolo.task](f"{name}.yaml", nc=classes, verbose=False)
    network.task, network.args = yolo.task, DEFAULT_CFG_DICT
    network.names = {class_id: f"class {class_id}" for class_id in range(classes)}
    return yolo, network, network.model[-1], bool(end_to_end)


def _keep_end_to_end(network: Any) -> None:
    """Remove the other head, as Ultralytics does before a prediction."""
    network.end2end = True
    network.fuse(verbose=False)


def _save(yolo: YOLO, kind: str, folder: Path, size_px: int) -> Path:
    path = folder / f"untrained-{kind.replace(' ', '-')}.pt"
    yolo.ckpt = {"train_args": {"imgsz": size_px}}
    yolo.save(path)
    return path


def _normalise(network: Any, branches: Any, images: torch.Tensor, mean: float = 0.0, deviation: float = 1.0) -> None:
    """Change the last layer of each branch so that its outputs have this mean and this standard deviation."""
    for layer, output in _outputs(network, branches, images):
        positions = [axis for axis in range(output.dim()) if axis != 1]
        factor = deviation / output.std(dim=positions).clamp(min=1e-5)
        layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias.copy_((layer.bias - output.mean(dim=positions)) * factor + mean)


def _model_input(pictures: Sequence[np.ndarray], size_px: int) -> torch.Tensor:
    """Return images as an input tensor for a network."""
    slots = np.empty((len(pictures), size_px, size_px, 3), np.uint8)
    for picture, slot in zip(pictures, slots, strict=True):
        letterbox(picture, slot)
    return torch.from_numpy(slots[..., ::-1].copy()).permute(0, 3, 1, 2) / 255


def _confident(network: Any) -> int:
    """Return the number of positions (raw head) or rows (end-to-end head) with a score above ``CLEAR``."""
    raw = network.eval()(_model_input([colourful()], SIZE_PX))[0]
    scores = raw[0, :, 4] if raw.shape[-1] == 6 else raw[0, 4:].amax(0)
    return int((scores > CLEAR).sum())


def _outputs(network: Any, branches: Any, images: torch.Tensor) -> list[tuple[Any, torch.Tensor]]:
    """Return the last layer of each branch, and its output for the images.

    The scores of an untrained network hardly differ. Without a change of these layers, rounding would decide which
    detections are kept.
    """
    outputs: list[torch.Tensor] = []
    hooks = [branch[-1].register_forward_hook(lambda *call: outputs.append(call[-1])) for branch in branches]
    network.eval()(images)
    for hook in hooks:
        hook.remove()
    return [(branch[-1], output) for branch, output in zip(branches, outputs, strict=True)]
