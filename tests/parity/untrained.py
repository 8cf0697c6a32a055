"""Build networks with random weights that find objects, and whose scores differ from place to place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ultralytics import YOLO

from serve_app.images.letterbox import letterbox
from tests.parity.pictures import colourful

SIZE_PX = 640
CLEAR = 0.4  # a score well above THRESHOLD, so that a detection is no borderline case


def save_untrained(kind: str, folder: Path) -> Path:
    """Initialise a model randomly, raise its class biases until it finds objects, and save it.

    ``kind``: the name of an architecture, such as ``yolo26n``. If it has an end-to-end head, "end-to-end" may follow.
    """
    torch.manual_seed(0)
    name, _, end_to_end = kind.partition(" ")
    yolo = YOLO(f"{name}.yaml")
    yolo.model.names = {class_id: f"class {class_id}" for class_id in range(80)}
    path = folder / f"untrained-{kind.replace(' ', '-')}.pt"
    with torch.no_grad():
        for module in yolo.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # amplify differences between positions
                module.weight.mul_(1.8)
        head = yolo.model.model[-1]
        if end_to_end:
            yolo.model.end2end = True
            yolo.model.fuse(verbose=False)  # removes the other head
        branches = head.one2one_cv3 if end_to_end else head.cv3
        _spread_scores(yolo.model, branches)
        for _ in range(80):
            if _confident(yolo.model) >= 200:
                break
            for branch in branches:
                branch[-1].bias.add_(0.25)
    yolo.save(path)
    return path


def _model_input() -> torch.Tensor:
    """Return ``colourful()`` as an input tensor for the network."""
    slot = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    letterbox(colourful(), slot)
    return torch.from_numpy(slot[None, :, :, ::-1].copy()).permute(0, 3, 1, 2) / 255


def _confident(network: torch.nn.Module) -> int:
    """Return the number of positions (raw head) or rows (end-to-end head) with a score above ``CLEAR``."""
    raw = network.eval()(_model_input())[0]
    scores = raw[0, :, 4] if raw.shape[-1] == 6 else raw[0, 4:].amax(0)
    return int((scores > CLEAR).sum())


def _spread_scores(network: torch.nn.Module, branches: torch.nn.ModuleList) -> None:
    """Scale the weights of the last layers to spread the scores.

    The scores of an untrained network hardly differ, so rounding would decide which detections are kept.
    """
    outputs: list[torch.Tensor] = []
    hooks = [branch[-1].register_forward_hook(lambda *call: outputs.append(call[-1])) for branch in branches]
    network.eval()(_model_input())
    for hook, branch, output in zip(hooks, branches, outputs, strict=True):
        hook.remove()
        # Limit the factor, because a checkpoint is saved in fp16 and must not overflow.
        branch[-1].weight.mul_((1 / output.std(dim=(2, 3)).mean()).clamp(max=1e5))
