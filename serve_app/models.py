"""A model's file -> a loaded engine. What has to be exported is exported once, into the cache."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve_app.config import ModelArgs, cores
from serve_app.engines import Engine
from serve_app.engines.simulated import SimulatedEngine
from serve_app.errors import ModelError

_EXPORT_TIMEOUT_S = 900
EMBEDDED = Path(__file__).with_name("weights")  # the model "codes": scripts/codes makes it
_EMBEDDED_FILES = {"openvino": "codes.onnx", "torch": "codes.safetensors"}  # by engine; no pickle in either


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
    name, version = weights.stem.removesuffix("_openvino_model"), _version(weights)
    threads = args.threads or cores()
    if engine == "torch":
        from serve_app.engines.torch import TorchEngine  # late: a process loads only the engine it uses

        return TorchEngine(
            weights, name=name, version=version, size_px=args.image_size_px, threads=threads, on_gpu=has_gpu
        )
    from serve_app.engines.openvino import OpenVinoEngine

    if weights.suffix == ".pt":
        weights = _exported(weights, version, args.image_size_px, args.cache_dir.expanduser())
    return OpenVinoEngine(weights, name=name, version=version, size_px=args.image_size_px, threads=threads)


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
    digest = hashlib.sha256()
    files = sorted(path for path in weights.iterdir() if path.is_file()) if weights.is_dir() else [weights]
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _exported(weights: Path, version: str, size_px: int, cache_dir: Path) -> Path:
    """The OpenVINO folder for a checkpoint. Replicas and nodes that share the cache wait for one export."""
    libraries = "-".join(f"{name}{importlib.metadata.version(name)}" for name in ("openvino", "ultralytics"))
    target = cache_dir / f"{weights.stem}-{version}-{size_px}px-fp32-{libraries}_openvino_model"
    if target.is_dir():
        return target
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ModelError(f"model.cache_dir: {cache_dir} cannot be made") from exc
    with _locked(target.with_name(f"{target.name}.lock")):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
                # Ultralytics writes beside the weights, whose folder may be read-only: export a link to them.
                link = Path(folder) / weights.name
                link.symlink_to(weights)
                _run_export(link, size_px)
                link.with_name(f"{weights.stem}_openvino_model").rename(target)  # appears whole or not at all
    return target


def _run_export(weights: Path, size_px: int) -> None:
    command = [sys.executable, "-m", "serve_app.engines.ultralytics", str(weights), str(size_px)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_EXPORT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise ModelError(f"exporting {weights.name} to OpenVINO took over {_EXPORT_TIMEOUT_S} s") from exc
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ModelError(f"exporting {weights.name} to OpenVINO failed: {reason}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
