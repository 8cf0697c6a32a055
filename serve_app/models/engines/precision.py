"""What numbers a model's file is in, the same for every engine that reads it."""

from __future__ import annotations

from collections.abc import Set

from serve_app.types import Precision

_QUANTISING = {"FakeQuantize", "QuantizeLinear"}  # OpenVINO's, and ONNX's


def precision_of(operations: Set[str], kernels: Set[str]) -> Precision:
    """Return ``int8``, ``fp16`` or ``fp32``.

    ``operations``: the types of the graph's. ``kernels``: the number types of its constants of four sides, which are
    convolutions', as numpy names them: a file quantised as it runs (dynamic) shows it by these alone.
    """
    if operations & _QUANTISING or kernels & {"int8", "uint8"}:
        return "int8"
    return "fp16" if "float16" in kernels else "fp32"
