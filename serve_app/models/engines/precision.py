"""Determine the precision of a model's file, in the same way for every engine that reads it."""

from __future__ import annotations

from collections.abc import Set

from serve_app.types import Precision

_QUANTISING = {"FakeQuantize", "QuantizeLinear"}  # operations that quantise, in OpenVINO and in ONNX


def precision_of(operations: Set[str], kernels: Set[str]) -> Precision:
    """Return ``int8``, ``fp16`` or ``fp32``.

    ``operations``: the types of the operations in the graph. ``kernels``: the NumPy number types of its
    four-dimensional constants, which are convolution kernels. A dynamically quantised model is recognised only by its
    kernels.
    """
    if operations & _QUANTISING or kernels & {"int8", "uint8"}:
        return "int8"
    return "fp16" if "float16" in kernels else "fp32"
