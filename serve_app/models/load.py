"""Load a model's file into an engine. Models that need an export are exported once, into the cache."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from serve_app.config import ModelArgs, cores
from serve_app.errors import ModelError
from serve_app.models.checkpoint.convert import without_pickle
from serve_app.models.engines import Engine, ModelFile
from serve_app.models.engines.simulated import SimulatedEngine
from serve_app.models.export import calibration_pictures, find_or_export
from serve_app.models.failures import model_errors
from serve_app.models.self_check import check_shapes, engines_agree
from serve_app.models.weights import content_version, find_weights, verified_weights
from serve_app.types import InputShape, Precision

Loaded = TypeVar("Loaded", bound=Engine)

_MAX_COMPARED_PICTURES = 50  # comparing two engines on this many images takes a few seconds at start
_PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "openvino": ("auto", "fp32", "bf16", "int8"),
    "onnx": ("auto",),  # the precision is always that of the file
    "torch": ("auto", "fp32", "fp16"),
    "tensorrt": ("auto", "fp32", "fp16", "int8"),
}


@model_errors()
def load(args: ModelArgs, *, has_gpu: bool, max_batch_size: int = 8) -> Engine:
    """Load the configured model into its engine. Raise ModelError on failure.

    ``has_gpu``: whether this process may use a GPU. ``max_batch_size``: the most frames in one call of ``infer``.
    """
    engine = args.engine
    if engine in ("null", "sleep"):
        square = InputShape.square(args.image_size_px)
        return SimulatedEngine(engine, input_shape=square, rectangular=args.rectangular)
    if engine == "auto":
        engine = "torch" if has_gpu else "openvino"
    with verified_weights(find_weights(args, engine), args.weights_sha256) as weights:
        return _load(weights, args, engine, has_gpu, max_batch_size)


def _load(weights: Path, args: ModelArgs, engine: str, has_gpu: bool, max_batch_size: int) -> Engine:
    precision = args.precision
    if precision not in _PRECISIONS[engine]:
        known = ", ".join(_PRECISIONS[engine])
        raise ModelError(
            f"model.precision: the {engine} engine does not support {precision}; set it to one of: {known}"
        )
    name, square = weights.stem.removesuffix("_openvino_model"), InputShape.square(args.image_size_px)
    file = ModelFile(weights, name, content_version(weights), square, args.rectangular)
    threads = args.threads or cores()
    # Engines are imported late, so that a process loads only the libraries of the engine that it uses.
    if engine == "torch":
        from serve_app.models.engines.torch import TorchEngine

        file = replace(file, path=without_pickle(weights, args.weights_sha256, weights.parent))
        loaded = TorchEngine(file, precision=precision, threads=threads, max_batch_size=max_batch_size, on_gpu=has_gpu)
        return _checked(loaded, args)
    if engine == "tensorrt":
        if not has_gpu:
            raise ModelError(
                "model.engine: tensorrt needs a GPU; give the Detector one in ray_actor_options, or set another engine"
            )
        precision = "fp16" if precision == "auto" else precision
        exported = find_or_export(weights, file.version, args, engine, precision, max_batch_size)
        from serve_app.models.engines.tensorrt import TensorRtEngine

        file = replace(file, path=exported)
        return _checked(TensorRtEngine(file, precision=precision, max_batch_size=max_batch_size), args)
    if engine == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        raise ModelError("model.engine: onnx needs an extra; run pip install 'sightline[onnx]'")
    if weights.suffix == ".pt":
        precision_of_file: Precision = "int8" if precision == "int8" else "fp32"
        file = replace(file, path=find_or_export(weights, file.version, args, engine, precision_of_file))
    if engine == "onnx":
        from serve_app.models.engines.onnx import OnnxEngine

        return _checked(OnnxEngine(file, threads=threads, on_gpu=has_gpu), args)
    return _load_openvino(file, precision, threads, args)


def _load_openvino(file: ModelFile, precision: Precision, threads: int, args: ModelArgs) -> Engine:
    """Load the OpenVINO engine. For the precision ``auto``, use bf16 if it finds the same objects as fp32.

    bf16 is far faster than fp32. The comparison needs the images in ``model.calibration_dir``. Without them, ``auto``
    means fp32.
    """
    from serve_app.models.engines.openvino import OpenVinoEngine

    def load_checked(precision: Precision) -> OpenVinoEngine:
        engine = OpenVinoEngine(file, precision=precision, threads=threads)
        check_shapes(engine, args.known_picture, engine.free_rectangles)
        return engine

    engine = load_checked(precision)
    if precision == "auto" and args.calibration_dir is not None and engine.info.precision != "int8":
        pictures = calibration_pictures(args.calibration_dir)[:_MAX_COMPARED_PICTURES]
        try:
            faster = load_checked("bf16")
        except ModelError:
            pass  # this CPU does not support bf16, or the model fails in bf16
        else:
            engine = faster if engines_agree(engine, faster, pictures) else engine
    engine.free_rectangles()
    return engine


def _checked(engine: Loaded, args: ModelArgs) -> Loaded:
    check_shapes(engine, args.known_picture)
    return engine
