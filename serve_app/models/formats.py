"""Which kind of file a model's file is, and what to do with a kind that no engine reads."""

from __future__ import annotations

from pathlib import Path

from serve_app.errors import ModelError

_EXPORT = "export the .pt with Ultralytics as format=onnx or format=openvino"
_ENGINE = (
    "a TensorRT engine runs only on the GPU and with the TensorRT that it was made for: name the .pt, and set "
    "model.engine to tensorrt, which makes one here"
)
_FOLDER = "an OpenVINO model is named by its folder, in which the .xml, the .bin and metadata.yaml are"
_ARCHIVE = "unpack the archive, and name the model in it"
_OTHERS = {
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
_NOT_READ = {
    ".engine": _ENGINE,
    ".plan": _ENGINE,
    ".trt": _ENGINE,
    ".pth": "of PyTorch's files only Ultralytics' own .pt are read: export this one as ONNX where it was made",
    ".xml": _FOLDER,
    ".bin": _FOLDER,
    ".zip": _ARCHIVE,
    ".gz": _ARCHIVE,
    ".tgz": _ARCHIVE,
    ".tar": _ARCHIVE,
} | {suffix: f"{maker} is not read: {_EXPORT}" for maker, suffixes in _OTHERS.items() for suffix in suffixes.split()}
_STARTS: dict[bytes, str] = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself: run git lfs pull",
    b"<!doctype": "is a web page: download the file itself",
    b"<html": "is a web page: download the file itself",
    b"<?xml": "is XML: an OpenVINO model is named by its folder",
    b"<error": "is a server's error message: download the file again",
    b"\x1f\x8b": "is compressed: unpack it",
    b"\x89hdf": f"is of Keras, which is not read: {_EXPORT}",
    b"ftrt": "is a TensorRT engine: name the .pt, and set model.engine to tensorrt",
}
_ZIP = b"pk\x03\x04"  # what torch.save() writes is a ZIP archive
_READ_BYTES = 64


def why_not_read(path: Path) -> str:
    """Return what to do with a file or folder of a kind that no engine reads; empty if nothing is known of it."""
    found = [path.suffix.lower(), *sorted({one.suffix for one in path.iterdir()} if path.is_dir() else ())]
    inside = [suffix for suffix in found if suffix in (".pb", ".param", ".pdmodel")]
    return _NOT_READ[inside[0]] if inside else _NOT_READ.get(path.suffix.lower(), "")


def check_start(path: Path) -> None:
    """Raises ModelError for a file that is by its first bytes something else than its name says, or empty."""
    if path.is_dir():
        return
    if not path.is_file():  # a pipe or a device: to read it could take for ever
        raise ModelError(f"model.weights: {path.name} is neither a file nor a folder")
    with path.open("rb") as file:
        start = file.read(_READ_BYTES).lstrip().lower()
    if not start:
        raise ModelError(f"model.weights: {path.name} is empty: copy or download it again")
    for first, sentence in _STARTS.items():
        if start.startswith(first):
            raise ModelError(f"model.weights: {path.name} {sentence}")
    if start.startswith(_ZIP) and path.suffix == ".onnx":
        raise ModelError(
            f"model.weights: {path.name} is a checkpoint or another archive, not ONNX: give it its own name"
        )
    if start[4:8] == b"tfl3":
        raise ModelError(f"model.weights: {path.name} is of TensorFlow Lite, which is not read: {_EXPORT}")
