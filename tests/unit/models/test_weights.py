from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors import safe_open

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models import weights as weights_module
from serve_app.models.export import find_or_export
from serve_app.models.load import load
from serve_app.models.weights import content_version
from tests.conftest import trusted
from tests.support import squares
from tests.support.checkpoints import tiny_network


def test_the_version_depends_on_the_content_of_the_weights(squares_model: Path, tmp_path: Path) -> None:
    onnx = squares.save_onnx(tmp_path / "a.onnx")
    versions = {load(ModelArgs(weights=path), has_gpu=False).info.version for path in (squares_model, onnx, onnx)}
    assert len(versions) == 2


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.pt", None, "there is no"),
        ("model.h5", b"", r"reads a \.pt file or a \.onnx file or an exported folder, not model\.h5: Keras is"),
        ("model", b"", r"reads a \.pt file or a \.onnx file or an exported folder, not model"),
        ("broken.onnx", b"nonsense", "cannot read"),
        ("broken.pt", b"nonsense", r"broken\.pt is damaged, or is not a checkpoint of Ultralytics"),
    ],
)
def test_weights_that_cannot_be_loaded_are_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=sentence):
        load(ModelArgs(weights=path, cache_dir=tmp_path / "cache"), has_gpu=False)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("kind", ["file", "folder", "file in a folder"])
def test_weights_that_are_not_readable_are_refused_in_one_sentence(kind: str, public_folder: Path) -> None:
    script = (
        "import sys, os; from pathlib import Path; from serve_app.models import load, weights\n"
        "from serve_app.config import ModelArgs; from serve_app.errors import ModelError\n"
        "os.setuid(65534)\n"
        "for use in (weights.check_weights, lambda args: load.load(args, has_gpu=False)):\n"
        "    try: use(ModelArgs(weights=Path(sys.argv[1])))\n"
        "    except ModelError as exc: print(exc)\n"
    )
    path = public_folder / "model.onnx"
    if kind == "file":
        path.write_bytes(b"never read")
        path.chmod(0o600)
        says = r"model\.weights: .*model\.onnx is not readable by user 65534; change its permissions"
    elif kind == "folder":
        path = public_folder / "model"
        path.mkdir(mode=0o700)
        says = r"model\.weights: .*model is not readable by user 65534; change its permissions"
    else:
        public_folder.chmod(0o700)
        says = r"model\.weights: .*model\.onnx is in a folder that user 65534 cannot read; change its permissions"
    said = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(rf"({says}\n){{2}}", said)


def test_a_link_to_a_file_without_a_suffix_keeps_its_own_name(tmp_path: Path) -> None:
    """Hugging Face's cache contains such links."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snap").mkdir()
    squares.save_onnx(tmp_path / "a.onnx").rename(tmp_path / "blobs/0a1b2c")
    link = tmp_path / "snap/best.onnx"
    link.symlink_to("../blobs/0a1b2c")
    assert weights_module.find_weights(ModelArgs(weights=link), "openvino") == link
    assert load(ModelArgs(weights=link), has_gpu=False).info.name == "best"


@pytest.mark.parametrize(("name", "right"), [("BEST.PT", "BEST.pt"), ("a.Onnx", "a.onnx")])
def test_a_suffix_in_capitals_is_corrected(name: str, right: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"never read")
    with pytest.raises(ModelError, match=rf"not {name}: rename the file to {right}$"):
        weights_module.find_weights(ModelArgs(weights=tmp_path / name), "openvino")


def test_a_file_with_another_hash_than_the_given_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "any.pt"
    path.write_bytes(b"never read")
    found = trusted(path)["weights_sha256"]
    with pytest.raises(ModelError, match=f"does not match any.pt, whose hash is {found}"):
        load(ModelArgs(weights=path, weights_sha256="0" * 64), has_gpu=False)


def test_a_checkpoint_that_cannot_be_read_is_found_by_the_check_and_by_the_load_with_one_sentence(
    tmp_path: Path,
) -> None:
    torch.save({"model": tiny_network(), "other": os.getcwd}, tmp_path / "needs.pt")
    args = ModelArgs(weights=tmp_path / "needs.pt", cache_dir=tmp_path / "cache")
    sentences = []
    for use in (weights_module.check_weights, lambda args: load(args, has_gpu=False)):
        with pytest.raises(ModelError, match=r"needs\.pt needs posix\.getcwd, which") as refusal:
            use(args)
        sentences.append(refusal.value.detail)
    assert sentences[0] == sentences[1]
    trusting = ModelArgs(**trusted(tmp_path / "needs.pt"), cache_dir=tmp_path / "cache")
    weights_module.check_weights(trusting)  # the operator trusts the file, so it is not read
    # An export of the trusted file says nothing about a file that nobody trusts.
    find_or_export(tmp_path / "needs.pt", content_version(tmp_path / "needs.pt"), trusting, "onnx", "fp32")
    with pytest.raises(ModelError, match=r"needs\.pt needs posix\.getcwd, which"):
        weights_module.check_weights(args)


def test_a_checkpoint_that_has_been_exported_is_not_read_again_by_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "any[1].pt"  # a pattern of file names would match any1.pt
    torch.save({"model": tiny_network()}, path)
    args = ModelArgs(weights=path, engine="openvino", image_size_px=64, cache_dir=tmp_path / "cache")
    load(args, has_gpu=False)
    monkeypatch.setattr(weights_module, "check_pickle", None)
    weights_module.check_weights(args)
    path.write_bytes(path.read_bytes() + b"changed")
    with pytest.raises(ModelError, match="'NoneType' object is not callable"):
        weights_module.check_weights(args)


class Evil:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, created: Path) -> None:
        self.created = created

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.created),)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_pickle_runs_only_with_its_hash(engine: str, tmp_path: Path) -> None:
    path, created = tmp_path / "any.pt", tmp_path / "created"
    torch.save(Evil(created), path)
    settings: dict[str, Any] = {"engine": engine, "cache_dir": tmp_path / "cache"}
    with pytest.raises(ModelError, match=r"any\.pt does not contain a YOLO model"):
        load(ModelArgs(weights=path, **settings), has_gpu=False)
    assert not created.exists()
    with pytest.raises(ModelError):
        load(ModelArgs(**trusted(path), **settings), has_gpu=False)
    assert created.exists()


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_pickle_that_is_replaced_after_its_check_is_not_loaded(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, created = tmp_path / "any.pt", tmp_path / "created"
    path.write_bytes(b"no model")
    args = ModelArgs(**trusted(path), engine=engine, cache_dir=tmp_path / "cache")
    check = weights_module._check_hash

    def swap(checked: Path, expected: str | None) -> None:
        check(checked, expected)
        torch.save(Evil(created), path)

    monkeypatch.setattr(weights_module, "_check_hash", swap)
    with pytest.raises(ModelError):
        load(args, has_gpu=False)
    assert not created.exists()


def test_an_exported_model_on_a_gpu_needs_an_explicit_engine(squares_model: Path) -> None:
    with pytest.raises(ModelError, match=r"set model\.engine to openvino"):
        load(ModelArgs(weights=squares_model), has_gpu=True)
    assert load(ModelArgs(weights=squares_model, engine="openvino"), has_gpu=True).info.engine == "openvino"


def test_the_torch_engine_needs_a_checkpoint(squares_model: Path) -> None:
    with pytest.raises(ModelError, match=r"reads a .pt file"):
        load(ModelArgs(weights=squares_model, engine="torch"), has_gpu=False)


def test_the_embedded_model_is_small_and_contains_no_pickle() -> None:
    files = {path.name: path for path in weights_module.EMBEDDED.iterdir()}
    assert files.keys() == {"codes.onnx", "codes.safetensors"}
    assert sum(path.stat().st_size for path in files.values()) <= 3_000_000
    onnx.checker.check_model(files["codes.onnx"])
    with safe_open(files["codes.safetensors"], "np") as file:
        assert {file.get_tensor(name).dtype.name for name in file.keys()} <= {"float16", "int64"}  # noqa: SIM118  # not a dict
