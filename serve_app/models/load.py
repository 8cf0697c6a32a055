"""Load a model's file into an engine. Models that need an export are exported once, into the cache."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from serve_app.config import ModelArgs, cores
from serve_app.errors import ModelError, ServeAppError
from serve_app.images.decode import decode
from serve_app.images.letterbox import letterbox
from serve_app.models.agreement import CONFIDENCE_TOLERANCE, THRESHOLD, agree
from serve_app.models.checkpoint.convert import without_pickle
from serve_app.models.engines import Engine
from serve_app.models.engines.simulated import SimulatedEngine
from serve_app.models.export import calibration_pictures, find_or_export
from serve_app.models.failures import model_errors, out_of_memory, reason
from serve_app.models.heads import check_output
from serve_app.models.tasks.detect import to_detections
from serve_app.models.weights import content_version, find_weights, verified_weights
from serve_app.types import DetectOptions, InputShape, Json, Pixels, Precision

_MAX_COMPARED_PICTURES = 50  # comparing two engines on this many images takes a few seconds at start
_MIN_COMPARED_DETECTIONS = 20  # with fewer, the comparison of two engines means little
_MAX_PIXELS = 50_000_000  # limit for calibration images and for model.known_picture
_COMPARED = DetectOptions(confidence=THRESHOLD - CONFIDENCE_TOLERANCE, iou=0.7, max_detections=300)
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
        return SimulatedEngine(engine, input_shape=InputShape.square(args.image_size_px))
    if engine == "auto":
        engine = "torch" if has_gpu else "openvino"
    with verified_weights(find_weights(args, engine), args.weights_sha256) as weights:
        loaded = _load(weights, args, engine, has_gpu, max_batch_size)
    _check_first_output(loaded, args)
    return loaded


def _check_first_output(engine: Engine, args: ModelArgs) -> None:
    """Raise ModelError when the model's output is unusable, or the model finds nothing in ``model.known_picture``."""
    info = engine.info
    frame = (
        _model_input(args.known_picture, info.input_shape, "known_picture")
        if args.known_picture
        else _pattern(info.input_shape)
    )
    try:
        raw = engine.infer([frame])[0]
    except Exception as exc:
        failed = ModelError(f"{info.name} fails on its first image: {type(exc).__name__}: {reason(exc)}")
        raise out_of_memory(exc) or failed from exc
    check_output(raw, info.labels)
    if args.known_picture and not len(to_detections(raw, _COMPARED, end_to_end=info.end_to_end)):
        raise ModelError(f"model.known_picture: {info.name} finds nothing in it; check model.weights and the image")


def _load(weights: Path, args: ModelArgs, engine: str, has_gpu: bool, max_batch_size: int) -> Engine:
    precision = args.precision
    if precision not in _PRECISIONS[engine]:
        known = ", ".join(_PRECISIONS[engine])
        raise ModelError(
            f"model.precision: the {engine} engine does not support {precision}; set it to one of: {known}"
        )
    options: Json = {
        "name": weights.stem.removesuffix("_openvino_model"),
        "version": content_version(weights),
        "input_shape": InputShape.square(args.image_size_px),
    }
    threads = args.threads or cores()
    # Engines are imported late, so that a process loads only the libraries of the engine that it uses.
    if engine == "torch":
        from serve_app.models.engines.torch import TorchEngine

        weights = without_pickle(weights, args.weights_sha256, weights.parent)
        return TorchEngine(
            weights, precision=precision, threads=threads, max_batch_size=max_batch_size, on_gpu=has_gpu, **options
        )
    if engine == "tensorrt":
        if not has_gpu:
            raise ModelError(
                "model.engine: tensorrt needs a GPU; give the Detector one in ray_actor_options, or set another engine"
            )
        precision = "fp16" if precision == "auto" else precision
        weights = find_or_export(weights, options["version"], args, engine, precision, max_batch_size)
        from serve_app.models.engines.tensorrt import TensorRtEngine

        return TensorRtEngine(weights, precision=precision, max_batch_size=max_batch_size, **options)
    if engine == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        raise ModelError("model.engine: onnx needs an extra; run pip install 'sightline[onnx]'")
    if weights.suffix == ".pt":
        precision_of_file: Precision = "int8" if precision == "int8" else "fp32"
        weights = find_or_export(weights, options["version"], args, engine, precision_of_file)
    if engine == "onnx":
        from serve_app.models.engines.onnx import OnnxEngine

        return OnnxEngine(weights, threads=threads, on_gpu=has_gpu, **options)
    return _load_openvino(weights, options | {"threads": threads, "precision": precision}, args)


def _load_openvino(weights: Path, options: Json, args: ModelArgs) -> Engine:
    """Load the OpenVINO engine. For the precision ``auto``, use bf16 if it finds the same objects as fp32.

    bf16 is far faster than fp32. The comparison needs the images in ``model.calibration_dir``. Without them, ``auto``
    means fp32.
    """
    from serve_app.models.engines.openvino import OpenVinoEngine

    engine = OpenVinoEngine(weights, **options)
    if args.precision != "auto" or args.calibration_dir is None or engine.info.precision == "int8":
        return engine
    try:
        faster = OpenVinoEngine(weights, **options | {"precision": "bf16"})
    except ModelError:
        return engine  # this CPU does not support bf16
    pictures = calibration_pictures(args.calibration_dir)[:_MAX_COMPARED_PICTURES]
    return faster if _engines_agree(engine, faster, pictures) else engine


def _engines_agree(some: Engine, other: Engine, pictures: list[Path]) -> bool:
    """Return whether both engines find the same objects in every image, and enough objects to be sure.

    Raise ModelError when an image cannot be read.
    """
    seen = 0
    for picture in pictures:
        frame = _model_input(picture, some.info.input_shape, "calibration_dir")
        found = [
            to_detections(engine.infer([frame])[0], _COMPARED, end_to_end=engine.info.end_to_end)
            for engine in (some, other)
        ]
        if not agree(*found):
            return False
        seen += int((found[0].confidence > THRESHOLD + CONFIDENCE_TOLERANCE).sum())
    return seen >= _MIN_COMPARED_DETECTIONS


def _pattern(shape: InputShape) -> Pixels:
    rows, columns = np.mgrid[: shape.height_px, : shape.width_px]
    return np.stack([rows, columns, rows * columns], axis=2).astype(np.uint8)


def _model_input(picture: Path, shape: InputShape, setting: str) -> Pixels:
    frame = np.empty(shape.array, np.uint8)
    try:
        letterbox(decode(picture.read_bytes(), _MAX_PIXELS), frame)
    except (ServeAppError, OSError) as exc:
        raise ModelError(f"model.{setting}: {picture.name} cannot be read: {exc}") from exc
    return frame
