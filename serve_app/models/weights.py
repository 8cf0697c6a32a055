"""A model's weights: where they are, and whether they are what was asked for."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.export import digest

EMBEDDED = Path(__file__).with_name("embedded")  # the model "codes": scripts/codes makes it; neither file is a pickle
_EMBEDDED_FILES = {"openvino": "codes.onnx", "onnx": "codes.onnx", "torch": "codes.safetensors"}  # by engine
_READS = {
    "openvino": (".pt", ".onnx", "folder"),
    "onnx": (".pt", ".onnx"),
    "torch": (".pt", ".safetensors"),
    "tensorrt": (".pt",),
}


@contextmanager
def file_errors() -> Iterator[None]:
    """Of the file system, as errors of the model."""
    try:
        yield
    except OSError as exc:
        raise ModelError(f"model.weights, or what is made of them in model.cache_dir, cannot be used: {exc}") from exc


@file_errors()
def check_weights(args: ModelArgs) -> None:
    """Raises ModelError for weights that are not here, or not for us; whether they can be loaded is not known yet."""
    if args.engine not in ("null", "sleep"):
        weights = find_weights(args, args.engine if args.engine != "auto" else "openvino")
        if not os.access(weights, os.R_OK):
            raise ModelError(f"model.weights: {weights} may not be read by user {os.getuid()}")
        _check_hash(weights, args.weights_sha256)


def find_weights(args: ModelArgs, engine: str) -> Path:
    """The file or folder that ``engine`` is to read."""
    if args.weights == Path("codes") and engine in _EMBEDDED_FILES:
        return EMBEDDED / _EMBEDDED_FILES[engine]
    try:
        path = args.weights.expanduser().resolve()
    except (ValueError, RuntimeError, OSError) as exc:
        raise ModelError("model.weights is no valid path") from exc
    if not path.exists():
        raise ModelError(f"model.weights: there is no {path}")
    kind = "folder" if path.is_dir() else path.suffix
    if kind in _READS[engine]:
        return path
    if args.engine == "auto" and engine == "torch" and kind in _READS["openvino"]:
        raise ModelError(f"a GPU runs a .pt file; to run {path.name} on the CPU set model.engine to openvino")
    readable = " or ".join("an exported folder" if kind == "folder" else f"a {kind} file" for kind in _READS[engine])
    raise ModelError(f"model.weights: the {engine} engine reads {readable}, not {path.name}")


def _check_hash(path: Path, expected: str | None) -> None:
    """A pickle runs what its author put into it: it is loaded only where the operator names just this one."""
    if path.parent == EMBEDDED or path.is_dir() or (expected is None and path.suffix != ".pt"):
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is None:
        raise ModelError(
            f"{path.name} is a pickle, which can run anything when it is loaded: if you trust it, set "
            f"model.weights_sha256 (SERVE_APP_WEIGHTS_SHA256) to {found}"
        )
    if found != expected.lower():
        raise ModelError(f"model.weights_sha256 is not that of {path.name}, which is {found}")


@contextmanager
def verified(weights: Path, expected: str | None) -> Iterator[Path]:
    """What was checked: a pickle as a copy that nobody else writes to, since it might be another one where it lies."""
    if weights.suffix != ".pt":
        _check_hash(weights, expected)
        yield weights
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, weights.name)
        try:
            shutil.copyfile(weights, copy)
        except OSError as exc:
            raise ModelError(f"model.weights: {weights.name} cannot be copied to {folder}: {exc.strerror}") from exc
        _check_hash(copy, expected)
        yield copy


def content_version(weights: Path) -> str:
    """Return 12 hex digits that change with the content of a file, or of a folder's files."""
    return digest(sorted(path for path in weights.iterdir() if path.is_file()) if weights.is_dir() else [weights])
