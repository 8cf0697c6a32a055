"""Check the architecture in a checkpoint before Ultralytics builds it.

Ultralytics trusts an architecture: it evaluates the activation as Python, looks up a layer by any name, and passes the
layer any arguments. So only layers and arguments of the kinds that Ultralytics ships are accepted, within limits.
"""

from __future__ import annotations

import ast
import reprlib
from typing import Any

from serve_app.models.checkpoint.failures import Unaccepted
from serve_app.types import Json, Task

MAX_LAYERS = 200  # Ultralytics' largest architecture has 43
MAX_CLASSES = 50_000
MAX_CHANNELS = 8192  # before they are multiplied by the width; Ultralytics' architectures have at most 1024
MAX_FACTOR = 8.0  # of the depth and the width; Ultralytics' architectures have at most 1.5
MAX_REPEATS = 100  # before they are multiplied by the depth; Ultralytics' architectures have at most 18
MAX_BLOCKS = 1000  # in all layers, with their repeats; Ultralytics' architectures have at most 100
_MAX_ITEMS = 8  # of a list of inputs or arguments; Ultralytics' architectures have at most 6
_MAX_SMALL = 16  # of kernel sizes, strides, paddings, and layer numbers in a list; Ultralytics' have at most 13
_MAX_REG_MAX = 64
_MAX_KEYPOINTS = 1000  # Ultralytics' architectures have 17
_SIZES = ("scales", "scale", "depth_multiple", "width_multiple")
_SETTINGS = ("nc", *_SIZES, "activation", "reg_max", "end2end", "inplace", "kpt_shape")
_ACTIVATIONS = {"ELU", "GELU", "Hardswish", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SiLU"}  # classes in torch.nn
_MAX_ACTIVATION_CHARACTERS = 64
# The kinds of the arguments of each layer, by the letters in ``_is_kind``. A layer may omit its last arguments.
LAYERS = {
    "A2C2f": "ctk",
    "AConv": "c",
    "ADown": "c",
    "Bottleneck": "ct",
    "C2": "ct",
    "C2PSA": "c",
    "C2f": "ct",
    "C2fCIB": "ctt",
    "C3": "ct",
    "C3Ghost": "ct",
    "C3k2": "ctft",
    "CBFuse": "K",
    "CBLinear": "C",
    "Classify": "n",
    "Concat": "k",
    "Conv": "ckkk",
    "Detect": "n",
    "ELAN1": "ccc",
    "GhostConv": "ckk",
    "OBB": "nk",
    "OBB26": "nk",
    "PSA": "c",
    "Pose": "np",
    "Pose26": "np",
    "RepNCSPELAN4": "cccr",
    "ResNetLayer": "ccktr",
    "SCDown": "ckk",
    "SPP": "cK",
    "SPPELAN": "cc",
    "SPPF": "ckkt",
    "Segment": "ncc",
    "Segment26": "ncc",
    "Silence": "",
    "nn.ConvTranspose2d": "ckkk",
    "nn.Identity": "",
    "nn.MaxPool2d": "kkk",
    "nn.Upsample": "-km",
    "nn.ZeroPad2d": "K",
    "v10Detect": "n",
}
HEADS: dict[str, Task] = {  # the last layer of each architecture, and its task
    "Classify": "classify",
    "Detect": "detect",
    "OBB": "obb",
    "OBB26": "obb",
    "Pose": "pose",
    "Pose26": "pose",
    "Segment": "segment",
    "Segment26": "segment",
    "v10Detect": "detect",
}
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2  # a layer is a list of lists


def check_architecture(architecture: Any) -> Json:
    """Return the parts of an architecture that Ultralytics needs. Raise Unaccepted when it is not accepted."""
    if not isinstance(architecture, dict):
        raise Unaccepted("has no architecture")
    checked: Json = {key: architecture[key] for key in (*_SETTINGS, "backbone", "head") if key in architecture}
    depth = _check_settings(checked)
    backbone, head = checked.get("backbone"), checked.get("head")
    layers = [*backbone, *head] if isinstance(backbone, list) and isinstance(head, list) else []
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise Unaccepted(f"has {len(layers)} layers in its architecture, not 1 to {MAX_LAYERS}")
    blocks = 0
    for index, layer in enumerate(layers):
        try:
            blocks += _check_layer(layer, index, depth, checked["nc"])
        except (TypeError, ValueError) as exc:
            raise Unaccepted(
                f"has a layer in its architecture that Ultralytics does not ship, {_SHORT.repr(layer)}"
            ) from exc
    if blocks > MAX_BLOCKS:
        raise Unaccepted(f"has {blocks} blocks in its architecture, not 1 to {MAX_BLOCKS}")
    head_name = layers[-1][2]
    if head_name not in HEADS:
        raise Unaccepted("has an architecture without the head of a supported task at its end")
    if HEADS[head_name] == "pose" and "kpt_shape" not in checked:
        raise Unaccepted("has an architecture for keypoints without their number, kpt_shape")
    return checked


def task_of(architecture: Json) -> Task:
    """Return the task of a checked architecture."""
    return HEADS[architecture["head"][-1][2]]


def _check_settings(architecture: Json) -> float:
    """Check all settings except the layers. Return the factor of the depth."""
    scales, scale, activation = (architecture.get(key) for key in ("scales", "scale", "activation"))
    sizes: Any = [architecture.get("depth_multiple", 1.0), architecture.get("width_multiple", 1.0), MAX_CHANNELS]
    if isinstance(scales, dict) and scales:
        scale = scale or next(iter(scales))  # as Ultralytics does
        sizes = scales.get(scale) if isinstance(scale, str) else None
        architecture |= {"scale": scale, "scales": {scale: sizes}}  # the other sizes are not used
    has_sizes = isinstance(sizes, list) and len(sizes) == 3
    accepted = {
        "nc": _is_int(architecture.get("nc"), 1, MAX_CLASSES),
        "scale": scale is None or isinstance(scale, str),
        "scales": has_sizes and all(map(_is_factor, sizes[:2])) and _is_int(sizes[2], 1, MAX_CHANNELS),
        "activation": activation is None or (isinstance(activation, str) and _is_activation(activation)),
        "reg_max": _is_int(architecture.get("reg_max", 16), 1, _MAX_REG_MAX),
        "end2end": architecture.get("end2end") in (None, False, True),
        "inplace": architecture.get("inplace") in (None, False, True),
        "kpt_shape": _is_keypoint_shape(architecture.get("kpt_shape", [1, 2])),
    }
    for key, is_accepted in accepted.items():
        if not is_accepted:
            raise Unaccepted(f"has an architecture with a value of {key} that Ultralytics does not ship")
    return float(sizes[0])


def _is_keypoint_shape(value: Any) -> bool:
    """Return whether the value is a number of keypoints, and two or three numbers for each of them."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    return _is_int(value[0], 1, _MAX_KEYPOINTS) and _is_int(value[1], 2, 3)


def _is_activation(text: str) -> bool:
    """Return whether a text only makes an activation of PyTorch from numbers, such as ``nn.ReLU(inplace=True)``."""
    try:
        call = ast.parse(text if len(text) <= _MAX_ACTIVATION_CHARACTERS else "", mode="eval").body
    except (SyntaxError, ValueError):
        return False
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    has_only_numbers = all(isinstance(one, ast.Constant) and type(one.value) in (bool, float, int) for one in values)
    module = ast.unparse(call.func.value)
    return has_only_numbers and module in ("nn", "torch.nn") and call.func.attr in _ACTIVATIONS


def _check_layer(layer: Any, index: int, depth: float, classes: int) -> int:
    """Return the number of blocks in a layer. Raise TypeError or ValueError when it is not accepted."""
    sources, repeats, name, arguments = layer
    for source in _list(sources) if isinstance(sources, list) else [sources]:
        if not _is_int(source, -max(index, 1), index - 1):
            raise ValueError("the input is not an earlier layer")
    if not _is_int(repeats, 1, MAX_REPEATS):
        raise ValueError("the layer has too many repeats")
    kinds = LAYERS[name] if isinstance(name, str) and name in LAYERS else None
    if kinds is None or not isinstance(arguments, list) or len(arguments) > len(kinds):
        raise ValueError("the layer is unknown, or has too many arguments")
    for kind, value in zip(kinds, arguments, strict=False):
        if not _is_kind(kind, value, classes):
            raise ValueError("an argument is of another kind, or too large")
    inner = {"RepNCSPELAN4": arguments[3:4], "ResNetLayer": arguments[4:5]}.get(name) or [1]
    return int(max(round(repeats * depth), 1) * inner[0])


def _is_kind(kind: str, value: Any, classes: int) -> bool:
    match kind:
        case "c":
            return _is_int(value, 1, MAX_CHANNELS)
        case "C":
            return all(_is_int(item, 1, MAX_CHANNELS) for item in _list(value))
        case "k":
            return _is_int(value, -1, _MAX_SMALL)
        case "K":
            return all(_is_int(item, 0, _MAX_SMALL) for item in _list(value))
        case "r":
            return _is_int(value, 1, MAX_REPEATS)
        case "f":
            return _is_factor(value)
        case "t":
            return isinstance(value, bool)
        case "n":
            return isinstance(value, (int, str)) and value in ("nc", classes)
        case "p":
            return _is_keypoint_shape(value) or (isinstance(value, str) and value == "kpt_shape")
        case "m":
            return isinstance(value, str) and value == "nearest"
        case _:  # an Upsample must have no size, so that its factor is used
            return value is None or (isinstance(value, str) and value == "None")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        raise ValueError("the argument is not a list, or too long")
    return value


def _is_int(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_factor(value: Any) -> bool:
    return type(value) in (float, int) and 0 < value <= MAX_FACTOR
