"""Cases of wrong, damaged or incomplete model files. Almost all must be refused with one sentence of advice."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from onnx import helper

from scripts.trials.field.case import Case
from scripts.trials.field.models.constant import anchors, rewrite, save, save_folder
from scripts.trials.field.models.verdicts import Make, Problem, refused, refused_checkpoint, served

_METADATA = "task: detect\nnames: [person, car]\n"


def _file(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def _onnx(how: Callable[[onnx.ModelProto], None]) -> Make:
    return lambda folder: rewrite(save(folder / "constant.onnx", anchors()), how)


def _truncated(share: float) -> Make:
    def make(folder: Path) -> Path:
        path = save(folder / "constant.onnx", anchors())
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        return path

    return make


def _external(change: Callable[[Path], object]) -> Make:
    """Make an ONNX file with its weights in another file, as in models above 2 GB. Apply ``change`` to that file."""

    def make(folder: Path) -> Path:
        path = save(folder / "constant.onnx", anchors())
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=0)
        change(folder / "weights.data")
        return path

    return make


def _folder(change: Callable[[Path], object]) -> Make:
    def make(folder: Path) -> Path:
        whole = save_folder(folder / "constant_openvino_model", anchors(), metadata=_METADATA)
        change(whole)
        return whole

    return make


def _named(name: str) -> Make:
    """Make a folder with one file of this name."""

    def make(folder: Path) -> Path:
        (folder / "model").mkdir()
        (folder / "model" / name).write_bytes(b"any")
        return folder / "model"

    return make


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.onnx")
    return folder / "pipe.onnx"


def _checkpoint_folder(folder: Path) -> Path:
    (folder / "m.pt").mkdir()
    return folder / "m.pt"


def _loop(folder: Path) -> Path:
    (folder / "loop.onnx").symlink_to("loop.onnx")
    return folder / "loop.onnx"


def _newer_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def _unknown_operation(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.node[1].domain, model.graph.node[1].op_type = "com.example", "EfficientNMS_TRT"


def _no_graph(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


def _newer(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace('version="opset1"', 'version="opset99"'), encoding="utf-8")


def _torch(content: object) -> Make:
    def make(folder: Path) -> Path:
        torch.save(content, folder / "model.pt")
        return folder / "model.pt"

    return make


def _script(folder: Path) -> Path:
    with warnings.catch_warnings(action="ignore"):  # PyTorch calls TorchScript deprecated, but such files still exist
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), folder / "model.pt")
    return folder / "model.pt"


def _archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    return folder / "model.pt"


_DAMAGED = "it is damaged"
_FILES: dict[str, Problem] = {
    "missing": refused(lambda folder: folder / "nowhere.onnx", "there is no"),
    "an address": refused(
        lambda folder: Path("https://example.com/model.onnx"), "only published models are downloaded"
    ),
    "empty": refused(_file("a.onnx", b""), "is empty"),
    "a pointer of Git LFS": refused(
        _file("a.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 6\n"), "git lfs pull"
    ),
    "a web page": refused(_file("a.onnx", b"<!DOCTYPE html><html><body>Sign in</body></html>"), "web page"),
    "a bucket's error": refused(_file("a.onnx", b"<Error><Code>AccessDenied</Code></Error>"), "server's error"),
    "nonsense": refused(_file("a.onnx", b"nonsense"), _DAMAGED),
    "half of it": refused(_truncated(0.5), f"{_DAMAGED}|a part of it is missing"),
    "all but its last bytes": refused(_truncated(0.97), f"{_DAMAGED}|a part of it is missing|does not name"),
    "a checkpoint under an ONNX file's name": refused(
        _file("a.onnx", b"PK\x03\x04" + bytes(99)), "its original suffix"
    ),
    "compressed": refused(_file("a.onnx", b"\x1f\x8b" + bytes(99)), "unpack it"),
    "TensorFlow Lite under an ONNX file's name": refused(_file("a.onnx", b"\x1c\0\0\0TFL3" + bytes(99)), "Lite"),
    "a TensorRT engine": refused(_file("a.engine", b"ftrt" + bytes(99)), "model.engine to tensorrt"),
    "TorchScript": refused(_file("a.torchscript", b"PK" + bytes(99)), "TorchScript is not supported: export the .pt"),
    "TensorFlow Lite": refused(_file("a.tflite", b"any"), "TensorFlow Lite is not supported: export the .pt"),
    "Keras": refused(_file("a.h5", b"any"), "Keras is not supported: export the .pt"),
    "CoreML": refused(_file("a.mlpackage", b"any"), "CoreML is not supported: export the .pt"),
    "PyTorch's other extension": refused(_file("a.pth", b"any"), "export this one as ONNX"),
    "an extension in capitals": refused(_file("A.ONNX", b"any"), "not A.ONNX"),
    "without an extension": refused(_file("model", b"any"), "not model"),
    "a part of a folder": refused(_file("a.xml", b"<net/>"), "set model.weights to the folder"),
    "a pipe": refused(_pipe, "neither a file nor a folder"),
    "a link to itself": refused(_loop, "not a valid path|there is no"),
    "a folder with a checkpoint's name": refused(_checkpoint_folder, "m.pt is a folder, not a checkpoint"),
    "a folder that macOS packed": served(
        _folder(lambda folder: (folder / "._constant.xml").write_bytes(b"\0\5\x16\7")), engines=["openvino"]
    ),
    "an empty folder": refused(lambda folder: folder, r"one \.xml file|an exported folder", engines=["openvino"]),
    "a TensorFlow folder": refused(_named("saved_model.pb"), "TensorFlow is not supported", engines=["openvino"]),
    "an NCNN folder": refused(_named("model.ncnn.param"), "NCNN is not supported", engines=["openvino"]),
    "a folder of two models": refused(
        _folder(lambda folder: (folder / "other.xml").write_text("<net/>")), "has 2", engines=["openvino"]
    ),
    "a folder without its .bin": refused(
        _folder(lambda folder: (folder / "constant.bin").unlink()), "constant.bin.*is missing", engines=["openvino"]
    ),
    "a folder with half of its .bin": refused(
        _folder(lambda folder: _cut(folder / "constant.bin")), "cannot read constant.xml", engines=["openvino"]
    ),
    "a folder without its .xml": refused(
        _folder(lambda folder: (folder / "constant.xml").unlink()), "has 0", engines=["openvino"]
    ),
    "a folder with half of its .xml": refused(
        _folder(lambda folder: _cut(folder / "constant.xml")), "cannot read constant.xml", engines=["openvino"]
    ),
    "a folder without metadata.yaml": refused(
        _folder(lambda folder: (folder / "metadata.yaml").unlink()), "no metadata.yaml", engines=["openvino"]
    ),
    "a folder with metadata in Latin-1": refused(
        _folder(lambda folder: (folder / "metadata.yaml").write_bytes(b"names: [M\xe4dchen]")),
        "metadata.yaml cannot be read",
        engines=["openvino"],
    ),
    "a folder of a newer OpenVINO": refused(
        _folder(lambda folder: _newer(folder / "constant.xml")), "which has no opset99", engines=["openvino"]
    ),
    "YOLOv5's own folder, whose metadata has another name": served(
        _folder(lambda folder: (folder / "metadata.yaml").rename(folder / "constant.yaml")), engines=["openvino"]
    ),
    "a folder for ONNX Runtime": refused(_folder(lambda folder: None), "the onnx engine reads", engines=["onnx"]),
    "external weights that are missing": refused(_external(Path.unlink), "missing or incomplete"),
    "half of the external weights": refused(_external(_cut), "missing or incomplete"),
    "an opset that is too new": refused(_onnx(_newer_opset), "opset=", engines=["onnx"]),
    "a plugin's operation": refused(_onnx(_unknown_operation), "EfficientNMS_TRT"),
    "no graph": refused(_onnx(_no_graph), "a part of it is missing|does not name|exactly one image input"),
}
_CHECKPOINTS: dict[str, Problem] = {
    "weights alone, without a hash": refused(_torch({"conv.weight": torch.zeros(1)}), "export it as ONNX"),
    "a network of another library, without a hash": refused(
        _torch({"model": torch.nn.Tanh()}), "export it as ONNX|model.weights_sha256"
    ),
    "TorchScript, without a hash": refused(_script, "export it as ONNX|model.weights_sha256"),
    "another archive, without a hash": refused(_archive, "export it as ONNX"),
    "nonsense, without a hash": refused(_file("model.pt", b"nonsense"), "export it as ONNX"),
    "weights alone": refused_checkpoint(_torch({"conv.weight": torch.zeros(1)}), "export it as ONNX"),
    "a whole network of another library": refused_checkpoint(
        _torch({"model": torch.nn.ReLU()}), "export it as ONNX|task"
    ),
    "a list": refused_checkpoint(_torch([1, 2]), "export it as ONNX"),
    "a pickle of Python": refused_checkpoint(_file("model.pt", pickle.dumps({"a": 1})), "export it as ONNX"),
    "TorchScript under a checkpoint's name": refused_checkpoint(_script, "export it as ONNX"),
    "another archive": refused_checkpoint(_archive, "export it as ONNX"),
    "nonsense": refused_checkpoint(_file("model.pt", b"nonsense"), "export it as ONNX"),
    "ONNX under a checkpoint's name": refused_checkpoint(
        lambda folder: save(folder / "model.onnx", anchors()).rename(folder / "model.pt"), "export it as ONNX"
    ),
}
CASES = (
    *(Case("files that are not a model", member, problem) for member, problem in _FILES.items()),
    *(Case("checkpoints that are not of a YOLO", member, problem) for member, problem in _CHECKPOINTS.items()),
)
