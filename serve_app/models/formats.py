"""Recognise the format of a model's file, and say what to do about a format that no engine reads."""

from __future__ import annotations

from pathlib import Path

from serve_app.errors import ModelError

_EXPORT_HINT = "export the .pt with Ultralytics as format=onnx or format=openvino"
_ENGINE_HINT = (
    "a TensorRT engine runs only on the GPU and the TensorRT version that it was built for: set model.weights to the "
    ".pt and model.engine to tensorrt, which builds the engine here"
)
_FOLDER_HINT = "for an OpenVINO model, set model.weights to the folder with the .xml, the .bin and metadata.yaml"
_ARCHIVE_HINT = "unpack the archive, and set model.weights to the model in it"
_UNSUPPORTED_FORMATS = {
    "Caffe": ".caffemodel",
    "CoreML": ".mlmodel .mlpackage",
    "Darknet": ".weights .cfg",
    "Hailo": ".hef",
    "Keras": ".h5 .hdf5 .keras",
    "MNN": ".mnn",
    "NCNN": ".param",
    "PaddlePaddle": ".pdmodel .pdiparams",
    "RKNN": ".rknn",
    "TensorFlow": ".pb",
    "TensorFlow Lite": ".tflite",
    "TorchScript": ".torchscript",
}
_HINTS = {
    ".engine": _ENGINE_HINT,
    ".plan": _ENGINE_HINT,
    ".trt": _ENGINE_HINT,
    ".pth": "the only PyTorch files that are supported are Ultralytics' .pt: export this one as ONNX with its own "
    "framework",
    ".xml": _FOLDER_HINT,
    ".bin": _FOLDER_HINT,
    ".zip": _ARCHIVE_HINT,
    ".gz": _ARCHIVE_HINT,
    ".tgz": _ARCHIVE_HINT,
    ".tar": _ARCHIVE_HINT,
} | {
    suffix: f"{maker} is not supported: {_EXPORT_HINT}"
    for maker, suffixes in _UNSUPPORTED_FORMATS.items()
    for suffix in suffixes.split()
}
_WRONG_CONTENT: dict[bytes, str] = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself: run git lfs pull",
    b"<!doctype": "is a web page: download the file itself",
    b"<html": "is a web page: download the file itself",
    b"<?xml": "is XML: for an OpenVINO model, set model.weights to its folder",
    b"<error": "is a server's error message: download the file again",
    b"\x1f\x8b": "is compressed: unpack it",
    b"\x89hdf": f"is a Keras model, which is not supported: {_EXPORT_HINT}",
    b"ftrt": "is a TensorRT engine: set model.weights to the .pt and model.engine to tensorrt",
}
_ZIP = b"pk\x03\x04"  # torch.save() writes ZIP archives
_READ_BYTES = 64


def unsupported_hint(path: Path) -> str:
    """Return what to do about a file or folder in a format that no engine reads, or "" for an unknown format."""
    found = [path.suffix.lower(), *sorted({one.suffix for one in path.iterdir()} if path.is_dir() else ())]
    inside = [suffix for suffix in found if suffix in (".pb", ".param", ".pdmodel")]
    return _HINTS[inside[0]] if inside else _HINTS.get(path.suffix.lower(), "")


def check_start(path: Path) -> None:
    """Raise ModelError for an empty file, or a file whose first bytes do not match its suffix."""
    if path.is_dir():
        return
    if not path.is_file():  # reading from a pipe or a device could block forever
        raise ModelError(f"model.weights: {path.name} is neither a file nor a folder: set the path of a model")
    with path.open("rb") as file:
        start = file.read(_READ_BYTES).lstrip().lower()
    if not start:
        raise ModelError(f"model.weights: {path.name} is empty: copy or download it again")
    for first, sentence in _WRONG_CONTENT.items():
        if start.startswith(first):
            raise ModelError(f"model.weights: {path.name} {sentence}")
    if start.startswith(_ZIP) and path.suffix == ".onnx":
        raise ModelError(
            f"model.weights: {path.name} is a checkpoint or another archive, not ONNX: give it its original suffix"
        )
    if start[4:8] == b"tfl3":
        raise ModelError(
            f"model.weights: {path.name} is a TensorFlow Lite model, which is not supported: {_EXPORT_HINT}"
        )
