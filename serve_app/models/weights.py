"""Find a model's weights, and verify their SHA-256."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.cache import cache_folder
from serve_app.models.checkpoint.convert import check_pickle
from serve_app.models.export import has_export
from serve_app.models.failures import model_errors
from serve_app.models.formats import check_start, unsupported_hint
from serve_app.models.hashes import digest, sha256_of
from serve_app.models.published import NAMES, Progress, fetch, suggestion, unsupported

EMBEDDED = Path(__file__).with_name("embedded")  # the model "codes", trained by scripts/codes; it contains no pickle
_EMBEDDED_FILES = {"openvino": "codes.onnx", "onnx": "codes.onnx", "torch": "codes.safetensors"}  # by engine
_READS = {
    "openvino": (".pt", ".onnx", "folder"),
    "onnx": (".pt", ".onnx"),
    "torch": (".pt", ".safetensors"),
    "tensorrt": (".pt",),
}
_MAX_UNTRUSTED_BYTES = 4 * 2**30  # four times the size of the largest checkpoint with the state of its optimizer


@model_errors()
def check_weights(args: ModelArgs, progress: Progress | None = None) -> None:
    """Raise ModelError when the weights are missing, cannot be read, or do not match ``weights_sha256``.

    The weights are not loaded. A published model is fetched, with reports to ``progress``. A checkpoint is read as
    ``load`` would read it, unless it is trusted, or has been exported before.
    """
    if args.engine not in ("null", "sleep"):
        weights = find_weights(args, args.engine if args.engine != "auto" else "openvino", progress)
        _check_hash(weights, args.weights_sha256)
        is_untrusted = weights.suffix == ".pt" and args.weights_sha256 is None
        if is_untrusted and not has_export(cache_folder(args), weights, content_version(weights)):
            check_pickle(weights)


def find_weights(args: ModelArgs, engine: str, progress: Progress | None = None) -> Path:
    """Return the file or folder that ``engine`` reads. Fetch a published model if no file has its name.

    Raise ModelError or OSError when there is no file or folder.
    """
    if args.weights == Path("codes"):
        if engine not in _EMBEDDED_FILES:
            raise ModelError(
                f"model.weights: the {engine} engine reads a .pt file, not the embedded model 'codes': set a .pt file"
            )
        return EMBEDDED / _EMBEDDED_FILES[engine]
    if re.match(r"[a-z][a-z0-9+]+:/", str(args.weights)):
        raise ModelError(
            "model.weights is a URL, but only published models are downloaded, by their name: fetch the file, and set "
            "its path"
        )
    try:
        given = args.weights.expanduser()
        path = given.resolve()
        is_there, is_link = path.exists(), given.is_symlink()
    except PermissionError as exc:
        raise ModelError(
            f"model.weights: {args.weights} is in a folder that user {os.getuid()} cannot read; change its permissions"
        ) from exc
    except (ValueError, RuntimeError, OSError) as exc:
        raise ModelError("model.weights is not a valid path") from exc
    if is_link and not is_there:
        raise ModelError(
            f"model.weights: {given} is a link to {path}, which does not exist: correct or delete the link"
        )
    if is_link and path.is_file() and not path.suffix:  # in Hugging Face's cache, best.pt leads to blobs/0a1b2c
        path = given.parent.resolve() / given.name
    if not is_there:
        name = str(args.weights)
        if name not in NAMES:
            raise ModelError(_missing(args.weights, path))
        path = fetch(name, cache_folder(args) / "weights", sha256=args.weights_sha256, progress=progress)
    if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
        raise ModelError(f"model.weights: {path} is not readable by user {os.getuid()}; change its permissions")
    if path.is_dir() and path.suffix == ".pt":
        raise ModelError(f"model.weights: {path.name} is a folder, not a checkpoint: set it to the file inside")
    kind = "folder" if path.is_dir() else path.suffix
    if kind in _READS[engine] and not (path.is_dir() and unsupported_hint(path)):
        check_start(path)
        return path
    if args.engine == "auto" and engine == "torch" and kind in _READS["openvino"]:
        raise ModelError(
            f"model.weights: with a GPU, the weights must be a .pt file; to run {path.name} on the CPU, set "
            "model.engine to openvino"
        )
    readable = " or ".join("an exported folder" if kind == "folder" else f"a {kind} file" for kind in _READS[engine])
    hint = unsupported_hint(path)
    if not path.is_dir() and kind.lower() in _READS[engine]:  # such as BEST.PT
        hint = f"rename the file to {path.stem}{kind.lower()}"
    raise ModelError(f"model.weights: the {engine} engine reads {readable}, not {path.name}{hint and f': {hint}'}")


def is_not_fetched_yet(args: ModelArgs) -> bool:
    """Return whether the weights are a published model that is not yet in ``model.cache_dir``."""
    name = str(args.weights)
    return name in NAMES and not os.path.lexists(name) and not os.path.exists(cache_folder(args) / "weights" / name)


def _missing(weights: Path, path: Path) -> str:
    """Return a sentence that says that there is no file or folder at ``path``, to which ``weights`` leads."""
    sentence = f"model.weights: there is no {path}; check the path"
    if weights.name in NAMES:  # in another folder
        return f"{sentence}, or set it to {weights.name} alone to fetch the published model"
    return unsupported(str(weights)) or f"{sentence}{suggestion(weights.name)}"


def _check_hash(path: Path, expected: str | None) -> None:
    """Raise ModelError unless the hash is as expected. A checkpoint without a hash must not be too large to read."""
    if path.is_dir() and expected is not None:
        raise ModelError(f"model.weights_sha256 is for files, but {path.name} is a folder: remove this setting")
    if path.parent == EMBEDDED or path.is_dir():
        return
    if expected is None:
        if path.suffix == ".pt" and (size := path.stat().st_size) > _MAX_UNTRUSTED_BYTES:
            raise ModelError(
                f"model.weights: {path.name} has {size / 2**30:.1f} GiB, but checkpoints are read only up to "
                f"{_MAX_UNTRUSTED_BYTES // 2**30} GiB: if you trust the file, which can then run any code, set "
                "model.weights_sha256 (SERVE_APP_WEIGHTS_SHA256) to its SHA-256 hash"
            )
        return
    found = sha256_of(path)
    if found != expected.lower():
        raise ModelError(
            f"model.weights_sha256 does not match {path.name}, whose hash is {found}: check that this is the right file"
        )


@contextmanager
def verified_weights(weights: Path, expected: str | None) -> Iterator[Path]:
    """Verify the weights and yield their path.

    A pickle is copied first, so that nobody can replace it between the check and the load.
    """
    if weights.suffix != ".pt":
        _check_hash(weights, expected)
        yield weights
        return
    if expected is None:
        _check_hash(weights, None)  # before the copy, which could fill the disk
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, weights.name)
        try:
            shutil.copyfile(weights, copy)
        except OSError as exc:
            raise ModelError(
                f"model.weights: {weights.name} cannot be copied to {folder} ({exc.strerror}): free some space there"
            ) from exc
        _check_hash(copy, expected)
        yield copy


def content_version(weights: Path) -> str:
    """Return 12 hex digits that change with the content of a file or of the files in a folder."""
    return digest(sorted(path for path in weights.iterdir() if path.is_file()) if weights.is_dir() else [weights])
