"""Export a checkpoint to the file that an engine reads. Each export happens once and is kept in the cache."""

from __future__ import annotations

import glob
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.cache import cache_folder, is_locked, locked
from serve_app.models.checkpoint.convert import without_pickle
from serve_app.models.hashes import digest
from serve_app.types import InputShape, Json, Precision

_EXPORT_TIMEOUT_S = 900
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_MAX_CALIBRATION_PICTURES = 300  # the default of the quantiser, NNCF; more images take longer and change little
_FORMATS = {"openvino": "openvino", "onnx": "onnx", "tensorrt": "engine"}  # engine -> Ultralytics' export format
_SUFFIXES = {"openvino": "_openvino_model", "onnx": ".onnx", "tensorrt": ".engine"}  # of the exported file or folder
_TRUSTED = "trusted"  # a part of the names of exports whose checkpoint was loaded as a pickle
_BITS = {"fp32": 32, "fp16": 16, "int8": 8}


def find_or_export(
    weights: Path, version: str, args: ModelArgs, engine: str, precision: Precision, max_batch_size: int = 1
) -> Path:
    """Return the export of a checkpoint for ``engine`` from the cache. Export the checkpoint first if necessary.

    Replicas and nodes that share a cache wait for a single export. Raise ModelError when the export fails.
    """
    try:
        libraries = [f"{library}{importlib.metadata.version(library)}" for library in (engine, "ultralytics")]
    except importlib.metadata.PackageNotFoundError as exc:
        raise ModelError(f"model.engine: {engine} needs an extra; run pip install 'sightline[{engine}]'") from exc
    pictures = _int8_pictures(args, engine, max_batch_size) if precision == "int8" else []
    # TensorRT is faster with a fixed size. The other engines read the same file with and without rectangles.
    any_size = engine != "tensorrt" or args.rectangular or max_batch_size > 1
    traits = [weights.stem, version, f"{args.image_size_px}px", precision]
    if pictures:
        traits.append(digest(pictures))
    if args.weights_sha256 is not None:
        traits.append(_TRUSTED)  # the network then comes from the pickle, and may differ from the one that we build
    if any_size:
        traits.append("anysize")
    if max_batch_size > 1:
        traits.append(f"batch{max_batch_size}")
    if engine == "tensorrt":
        from serve_app.models.engines.device import gpu_name

        traits.append(gpu_name())  # a TensorRT file runs only on the type of GPU on which it was built
    target = cache_folder(args) / ("-".join(traits + libraries) + _SUFFIXES[engine])
    if os.path.exists(target):  # Path.exists would raise PermissionError in a folder that cannot be read
        return target
    options = {
        "format": _FORMATS[engine],
        "input_shape": InputShape.square(args.image_size_px),
        "quantize": _BITS[precision],
        "any_size": any_size,
        "max_batch_size": max_batch_size,
    }
    with locked(target.with_name(f"{target.name}.lock")) as lock:
        if not target.exists():
            folder = target.with_name(f"{target.name}.making")
            shutil.rmtree(folder, ignore_errors=True)  # left by an export that was killed
            folder.mkdir()
            try:
                # Ultralytics writes next to the weights, whose folder may be read-only. So we export a link
                # to the weights in our own folder.
                source = without_pickle(weights, args.weights_sha256, folder)
                if source == weights:
                    source = folder / weights.name
                    source.symlink_to(weights)
                _run_export(source, target, options, pictures, lock)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    return target


def has_export(cache_dir: Path, weights: Path, version: str) -> bool:
    """Return whether the cache has any export of a checkpoint that was read without trusting it."""
    start = f"{weights.stem}-{version}-"
    found = (path.name for path in cache_dir.glob(f"{glob.escape(start)}*"))
    return any(
        name.endswith(tuple(_SUFFIXES.values())) and _TRUSTED not in name.removeprefix(start).split("-")
        for name in found
    )


def running_exports(cache_dir: Path) -> list[Path]:
    """Return the file or folder that each running export will create in the cache."""
    return [lock.with_suffix("") for lock in sorted(cache_dir.glob("*.lock")) if is_locked(lock)]


def _int8_pictures(args: ModelArgs, engine: str, max_batch_size: int) -> list[Path]:
    """Return the images for int8 calibration. Raise ModelError when there are too few, or a library is missing."""
    if args.calibration_dir is None:
        raise ModelError(
            "model.precision: int8 needs model.calibration_dir; set it to a folder of about 300 typical images"
        )
    if engine == "openvino" and importlib.util.find_spec("nncf") is None:
        raise ModelError("model.precision: int8 needs an extra; run pip install 'sightline[int8]'")
    pictures = calibration_pictures(args.calibration_dir)[:_MAX_CALIBRATION_PICTURES]
    if len(pictures) < max_batch_size:  # TensorRT calibrates with whole batches
        raise ModelError(
            f"model.calibration_dir: {len(pictures)} images are fewer than a batch of {max_batch_size}; add images "
            "or lower batcher.max_batch_size"
        )
    return pictures


def calibration_pictures(folder: Path) -> list[Path]:
    """Return the images in ``model.calibration_dir``. Raise ModelError when there are none."""
    folder = folder.expanduser()
    pictures = sorted(path for path in folder.glob("*") if path.suffix.lower() in _PICTURES) if folder.is_dir() else []
    if not pictures:
        raise ModelError(f"model.calibration_dir: there is no image in {folder}; it needs JPEG, PNG, WebP or BMP")
    return pictures


def _run_export(weights: Path, target: Path, options: Json, pictures: list[Path], lock: int) -> None:
    """Export in a child process, which creates ``target`` only when the export is complete.

    The child process also holds the ``lock``. If this process is killed, the child finishes the export, and the next
    process that needs ``target`` waits for the child.
    """
    if pictures:
        copies = weights.with_name("images")  # Ultralytics may repair images in place, so it gets copies
        copies.mkdir()
        for number, picture in enumerate(pictures):
            shutil.copy(picture, copies / f"{number}{picture.suffix}")
    name = weights.with_suffix(".pt").name
    command = [
        sys.executable,
        "-P",  # import nothing from the current folder
        "-m",
        "serve_app.models.engines.ultralytics",
        str(weights),
        str(target),
        json.dumps(options),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_EXPORT_TIMEOUT_S, check=False, pass_fds=[lock]
        )
    except subprocess.TimeoutExpired as exc:
        raise ModelError(
            f"exporting {name} as {options['format']} took more than {_EXPORT_TIMEOUT_S} s: export it "
            "elsewhere, and set model.weights to the exported file"
        ) from exc
    if done.returncode < 0:
        raise ModelError(
            f"exporting {name} as {options['format']} was ended by signal {-done.returncode}, perhaps because "
            "memory ran out: give the Detector more memory"
        )
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        ours = reason.removeprefix(f"{ModelError.__module__}.{ModelError.__name__}: ")
        if ours != reason:  # our own errors need no prefix
            raise ModelError(ours)
        raise ModelError(f"exporting {name} as {options['format']} failed: {reason}")
