"""A model's file -> a loaded engine. What has to be exported is exported once, into the cache."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from serve_app.agreement import CONFIDENCE_TOLERANCE, THRESHOLD, agree
from serve_app.config import ModelArgs, cores
from serve_app.decode import decode
from serve_app.engines import Engine
from serve_app.engines.simulated import SimulatedEngine
from serve_app.errors import ModelError, ServeAppError
from serve_app.letterbox import letterbox
from serve_app.postprocess import to_detections
from serve_app.types import DetectOptions, Json

_EXPORT_TIMEOUT_S = 900
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_MAX_COMPARED_PICTURES = 50  # a few seconds at start
_MAX_PIXELS = 50_000_000
_COMPARED = DetectOptions(confidence=THRESHOLD - CONFIDENCE_TOLERANCE, iou=0.7, max_detections=300)
_MAX_CALIBRATION_PICTURES = 300  # more take longer and change little: NNCF's own default
EMBEDDED = Path(__file__).with_name("weights")  # the model "codes": scripts/codes makes it
_EMBEDDED_FILES = {
    "openvino": "codes.onnx",
    "onnx": "codes.onnx",
    "torch": "codes.safetensors",
}  # by engine; no pickle in either


def load(args: ModelArgs, *, has_gpu: bool) -> Engine:
    """The engine of the configured model, ready to infer. Raises ModelError with one sentence.

    ``has_gpu``: a GPU was given to this process.
    """
    engine = args.engine
    if engine in ("null", "sleep"):
        return SimulatedEngine(engine, size_px=args.image_size_px)
    if engine == "auto":
        engine = "torch" if has_gpu else "openvino"
    weights = EMBEDDED / _EMBEDDED_FILES[engine] if args.weights == Path("codes") else _find(args.weights)
    if engine == "torch" and weights.suffix not in {".pt", ".safetensors"}:
        if args.engine == "auto":
            raise ModelError(f"a GPU runs a .pt file; to run {weights.name} on the CPU set model.engine to openvino")
        raise ModelError(f"the torch engine reads a .pt file, not {weights.name}")
    if engine == "onnx" and weights.suffix not in {".pt", ".onnx"}:
        raise ModelError(f"the onnx engine reads an .onnx file or a .pt file, not {weights.name}")
    options: Json = {
        "name": weights.stem.removesuffix("_openvino_model"),
        "version": _version(weights),
        "size_px": args.image_size_px,
        "precision": args.precision,
        "threads": args.threads or cores(),
    }
    # Each is imported late: a process loads only the engine it uses.
    if engine == "torch":
        from serve_app.engines.torch import TorchEngine

        return TorchEngine(weights, on_gpu=has_gpu, **options)
    if weights.suffix == ".pt":
        weights = _exported(weights, options["version"], args, engine)
    if engine == "onnx":
        try:
            from serve_app.engines.onnx import OnnxEngine
        except ImportError as exc:
            raise ModelError("the onnx engine is an extra: pip install 'sightline[onnx]'") from exc

        return OnnxEngine(weights, on_gpu=has_gpu, **options)
    return _load_openvino(weights, options, args)


def _load_openvino(weights: Path, options: Json, args: ModelArgs) -> Engine:
    """In bf16 where nobody chose, and where it finds on every picture at hand what fp32 finds: it is far faster."""
    from serve_app.engines.openvino import OpenVinoEngine

    engine = OpenVinoEngine(weights, **options)
    if args.precision != "auto" or args.calibration_dir is None or engine.info.precision == "int8":
        return engine
    try:
        faster = OpenVinoEngine(weights, **options | {"precision": "bf16"})
    except ModelError:
        return engine  # this CPU does not compute in it
    pictures = _pictures_like_the_users(args.calibration_dir)[:_MAX_COMPARED_PICTURES]
    return faster if all(_find_the_same(engine, faster, path) for path in pictures) else engine


def _find(weights: Path) -> Path:
    try:
        path = weights.expanduser().resolve()
    except (ValueError, RuntimeError, OSError) as exc:
        raise ModelError("model.weights is no valid path") from exc
    if not path.exists():
        raise ModelError(f"model.weights: there is no {path}")
    if not (path.is_dir() or path.suffix in {".pt", ".onnx"}):
        raise ModelError(f"model.weights is a .pt file, an .onnx file or an exported OpenVINO folder, not {path.name}")
    return path


def _version(weights: Path) -> str:
    return _hash(sorted(path for path in weights.iterdir() if path.is_file()) if weights.is_dir() else [weights])


def _hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _exported(weights: Path, version: str, args: ModelArgs, engine: str) -> Path:
    """What ``engine`` reads, made of a checkpoint. Replicas and nodes that share the cache wait for one export."""
    pictures = _calibration_pictures(args) if (engine, args.precision) == ("openvino", "int8") else []
    precision = f"int8-{_hash(pictures)}" if pictures else "fp32"
    libraries = "-".join(f"{name}{importlib.metadata.version(name)}" for name in ("openvino", "ultralytics"))
    suffix = {"openvino": "_openvino_model", "onnx": ".onnx"}[engine]
    cache_dir = args.cache_dir.expanduser()
    target = cache_dir / f"{weights.stem}-{version}-{args.image_size_px}px-{precision}-{libraries}{suffix}"
    if target.exists():
        return target
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ModelError(f"model.cache_dir: {cache_dir} cannot be made") from exc
    with _locked(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
                # Ultralytics writes beside the weights, whose folder may be read-only: export a link to them.
                link = Path(folder) / weights.name
                link.symlink_to(weights)
                _run_export(link, args.image_size_px, engine, pictures)
                # It appears whole or not at all.
                max(Path(folder).glob(f"*{suffix}"), key=lambda path: path.stat().st_mtime_ns).rename(target)
    return target


def _calibration_pictures(args: ModelArgs) -> list[Path]:
    """The pictures that int8 is fitted to. Raises ModelError."""
    if args.calibration_dir is None:
        raise ModelError("model.precision int8 needs model.calibration_dir: a folder of some 300 pictures like yours")
    if importlib.util.find_spec("nncf") is None:
        raise ModelError("int8 is an extra: pip install 'sightline[int8]'")
    return _pictures_like_the_users(args.calibration_dir)[:_MAX_CALIBRATION_PICTURES]


def _pictures_like_the_users(folder: Path) -> list[Path]:
    folder = folder.expanduser()
    pictures = sorted(path for path in folder.glob("*") if path.suffix.lower() in _PICTURES) if folder.is_dir() else []
    if not pictures:
        raise ModelError(f"model.calibration_dir: there is no picture in {folder}")
    return pictures


def _find_the_same(some: Engine, other: Engine, picture: Path) -> bool:
    """Whether both find the same in a picture. Raises ModelError."""
    size_px = some.info.size_px
    frame = np.empty((size_px, size_px, 3), np.uint8)
    try:
        letterbox(decode(picture.read_bytes(), _MAX_PIXELS), frame)
    except (ServeAppError, OSError) as exc:
        raise ModelError(f"model.calibration_dir: {picture.name} cannot be read: {exc}") from exc
    found = (
        to_detections(engine.infer([frame])[0], _COMPARED, end_to_end=engine.info.end_to_end)
        for engine in (some, other)
    )
    return agree(*found)


def _run_export(weights: Path, size_px: int, engine: str, pictures: list[Path]) -> None:
    command = [sys.executable, "-m", "serve_app.engines.ultralytics", str(weights), str(size_px), engine]
    if pictures:
        copies = weights.with_name("images")  # Ultralytics may mend a picture in its place: not the user's
        copies.mkdir()
        for number, picture in enumerate(pictures):
            shutil.copy(picture, copies / f"{number}{picture.suffix}")
        command.append(str(copies))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_EXPORT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise ModelError(f"exporting {weights.name} for {engine} took over {_EXPORT_TIMEOUT_S} s") from exc
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ModelError(f"exporting {weights.name} for {engine} failed: {reason}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
