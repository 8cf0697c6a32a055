"""A model's weights: where they are, and whether they are what was asked for."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.export import digest
from serve_app.models.failures import model_errors
from serve_app.models.formats import check_start, why_not_read

EMBEDDED = Path(__file__).with_name("embedded")  # the model "codes": scripts/codes makes it; neither file is a pickle
_EMBEDDED_FILES = {"openvino": "codes.onnx", "onnx": "codes.onnx", "torch": "codes.safetensors"}  # by engine
_READS = {
    "openvino": (".pt", ".onnx", "folder"),
    "onnx": (".pt", ".onnx"),
    "torch": (".pt", ".safetensors"),
    "tensorrt": (".pt",),
}


@model_errors()
def check_weights(args: ModelArgs) -> None:
    """Raises ModelError for weights that are not here, or not for us; whether they can be loaded is not known yet."""
    if args.engine not in ("null", "sleep"):
        weights = find_weights(args, args.engine if args.engine != "auto" else "openvino")
        _check_hash(weights, args.weights_sha256)


def find_weights(args: ModelArgs, engine: str) -> Path:
    """The file or folder that ``engine`` is to read. Raises ModelError, OSError."""
    if args.weights == Path("codes"):
        if engine not in _EMBEDDED_FILES:
            raise ModelError(f"the {engine} engine reads a .pt file, not the embedded model codes: set model.weights")
        return EMBEDDED / _EMBEDDED_FILES[engine]
    if re.match(r"[a-z][a-z0-9+]+:/", str(args.weights)):
        raise ModelError("model.weights is an address, and nothing is downloaded: fetch the file, and name it here")
    try:
        path = args.weights.expanduser().resolve()
        is_there = path.exists()
    except PermissionError as exc:
        raise ModelError(f"model.weights: {args.weights} is in a folder that user {os.getuid()} may not read") from exc
    except (ValueError, RuntimeError, OSError) as exc:
        raise ModelError("model.weights is no valid path") from exc
    if not is_there:
        raise ModelError(f"model.weights: there is no {path}")
    if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
        raise ModelError(f"model.weights: {path} may not be read by user {os.getuid()}")
    if path.is_dir() and path.suffix == ".pt":
        raise ModelError(f"model.weights: {path.name} is a folder, not a checkpoint: name the file in it")
    kind = "folder" if path.is_dir() else path.suffix
    if kind in _READS[engine] and not (path.is_dir() and why_not_read(path)):
        check_start(path)
        return path
    if args.engine == "auto" and engine == "torch" and kind in _READS["openvino"]:
        raise ModelError(f"a GPU runs a .pt file; to run {path.name} on the CPU set model.engine to openvino")
    readable = " or ".join("an exported folder" if kind == "folder" else f"a {kind} file" for kind in _READS[engine])
    hint = why_not_read(path)
    raise ModelError(f"model.weights: the {engine} engine reads {readable}, not {path.name}{hint and f': {hint}'}")


def _check_hash(path: Path, expected: str | None) -> None:
    """A pickle runs what its author put into it: it is loaded only where the operator names just this one."""
    if path.is_dir() and expected is not None:
        raise ModelError(f"model.weights_sha256 is a file's, and {path.name} is a folder: leave it out")
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
