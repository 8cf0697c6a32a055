"""Tests that a hostile checkpoint runs nothing, takes little memory, and is refused in one sentence."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import stat
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.modules import Conv, TorchVision

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models import weights as weights_module
from serve_app.models.checkpoint import convert
from serve_app.models.checkpoint.convert import without_pickle
from serve_app.models.checkpoint.failures import REFUSED
from serve_app.models.load import load
from tests.support.checkpoints import TRUST, Call, archive, read, rewrite, saved, with_module

MAX_PEAK_MIB = 1024 + 64  # the memory limit for a small file, plus 64 MiB for the files that the process maps
DAMAGED = "is damaged, or is not a checkpoint of Ultralytics"
LONG = "cat" * 10**6
NOT_YOLO = "does not contain a YOLO model"
# A function that takes a new file's path, and a path that hostile code would create. It returns the new file.
Make = Callable[[Path, Path], Path]


def stored(tensor: bytes, size: int) -> bytes:
    """Return the pickle of a network with one tensor. ``tensor``: its offset, sizes and strides as instructions."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + integer(size) + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + tensor + b"\x89ccollections\nOrderedDict\n)RtR"
    parameters = b"X\x0b\0\0\0_parameters}X\x06\0\0\0weight" + rebuilt + b"s"
    buffers = b"X\x08\0\0\0_buffers}X\x08\0\0\0_modules}"
    conv = b"ctorch.nn.modules.conv\nConv2d\n)\x81}(" + parameters + buffers + b"ub"
    model = b"cultralytics.nn.tasks\nDetectionModel\n)\x81}X\x08\0\0\0_modules}X\x05\0\0\0model" + conv + b"ssb"
    return b"\x80\x02}X\x05\0\0\0model" + model + b"s."


def integer(number: int) -> bytes:
    """Return the instruction for an integer."""
    data = pickle.encode_long(number)
    return b"\x8a" + bytes([len(data)]) + data


def sizes(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """Return the instructions for the offset, the shape and the strides of a tensor."""
    return integer(offset) + b"".join(b"(" + b"".join(map(integer, one)) + b"t" for one in (shape, strides))


def symbolic_links(path: Path, _: Path) -> Path:
    """Return an archive in which every storage is a symbolic link to a file of the machine."""
    good = saved(path.with_name("good.pt"))
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            entry = zipfile.ZipInfo(name)
            if "/data/" in name:
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            new.writestr(entry, b"/etc/passwd" if "/data/" in name else old.read(name))
    return path


def nested_archive(path: Path, trace: Path) -> Path:
    """Return an archive whose only content is a checkpoint that would run a command."""
    inner = saved(path.with_name("inner.pt"), other=Call(os.mkdir, str(trace)))
    with zipfile.ZipFile(path, "w") as outer:
        outer.write(inner, "archive/data/model.pt")
        outer.write(inner, "archive/archive/data.pkl")
    return path


def legacy(path: Path, trace: Path) -> Path:
    """Return a file in PyTorch's format from before version 1.6, which is not an archive."""
    torch.save({"model": Call(os.mkdir, str(trace))}, path, _use_new_zipfile_serialization=False)
    return path


def tar(path: Path, trace: Path) -> Path:
    """Return a tar archive, as PyTorch wrote before version 0.4."""
    import tarfile

    inner = path.with_name("inner")
    inner.write_bytes(pickle.dumps(Call(os.mkdir, str(trace))))
    with tarfile.open(path, "w") as outer:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            outer.add(inner, name)
    return path


def other_path(path: Path, trace: Path) -> Path:
    """Return a checkpoint in which a storage has the name of a file of the machine."""
    outside = path.with_name("outside")
    outside.write_bytes(bytes(1000))
    return archive(path, stored(sizes(0, (1,), (1,)), 1).replace(b"X\x01\0\0\x000", named(f"../../{outside}")))


def named(text: str) -> bytes:
    """Return the instruction for a text."""
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def inserted(path: Path, instructions: bytes) -> Path:
    """Return a checkpoint that also has an object which is made by these instructions."""
    start = b"\x80\x02}q\x00("
    good = saved(path.with_name("good.pt"), other=1)
    return rewrite(good, path, lambda data: data.replace(start, start + named("x") + instructions, 1))


def bomb(path: Path, _: Path) -> Path:
    """Return a checkpoint with a compressed pickle of 10 GB of zeros in a file of 10 MB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file,
        file.open("archive/data.pkl", "w", force_zip64=True) as part,
    ):
        for _number in range(100):
            part.write(bytes(10_000_000))  # 1 GB, and its size in the table is then changed to 10 GB
    content = path.read_bytes()
    path.write_bytes(content.replace((10**9).to_bytes(4, "little"), (4 * 10**9).to_bytes(4, "little")))
    return path


SLOW = {"a list of 15 million lists"}  # a recursion is limited in the same way
REFUSALS: dict[str, tuple[Make, str]] = {
    "a call of os.system": (
        lambda path, trace: saved(path, other=Call(os.system, f"touch {trace}")),
        f"needs posix.system, which .*{TRUST}",
    ),
    "a call of exec in the place of the model": (
        lambda path, trace: archive(path, pickle.dumps({"model": Call(exec, f"open({str(trace)!r}, 'w')")}, 2)),
        NOT_YOLO,
    ),
    "a network that loads another file": (
        lambda path, trace: saved(path, other=Call(AutoBackend, str(trace))),
        "needs ultralytics.nn.autobackend.AutoBackend, which",
    ),
    "a network that downloads": (
        lambda path, _: saved(path, other=Call(TorchVision, 1, "resnet50", "DEFAULT")),
        r"needs ultralytics.nn.modules.block.TorchVision, which",
    ),
    "a listed class with huge arguments": (
        lambda path, _: saved(path, other=Call(Conv, 10**6, 10**6, 1000)),
        "needs a call of ultralytics.nn.modules.conv.Conv, which",
    ),
    "a state for a module of Python": (
        lambda path, _: inserted(path, b"cos\npath\n}" + named("sep") + b"K\x01sb"),
        "needs os.path, a change of os.path, which",
    ),
    "a state for a class": (
        lambda path, _: inserted(path, b"ctorch.nn.modules.conv\nConv2d\n}" + named("forward") + b"K\x01sb"),
        "needs a change of torch.nn.modules.conv.Conv2d, which",
    ),
    "a function as an attribute": (
        lambda path, _: with_module(path, lambda network: setattr(network, "hook", os.getcwd)),
        "needs posix.getcwd, which",
    ),
    "many unknown names": (
        lambda path, _: saved(path, other=[os.getcwd, os.getpid, os.stat, os.mkdir, os.rmdir, os.link, os.unlink]),
        "needs posix.getcwd, posix.getpid, posix.stat, posix.mkdir, posix.rmdir, 2 more, which",
    ),
    "a state for a network that is not data": (
        lambda path, trace: with_module(
            path, lambda network: network.model._modules.update(x=Call(os.mkdir, str(trace)))
        ),
        "needs posix.mkdir, which",
    ),
    "a nested archive": (nested_archive, DAMAGED),
    "symbolic links": (symbolic_links, DAMAGED),
    "a compressed bomb of 4 GB": (bomb, DAMAGED),
    "compressed parts": (
        lambda path, _: rewrite(saved(path.with_name("good.pt")), path, bytes, method=zipfile.ZIP_DEFLATED),
        DAMAGED,
    ),
    "a storage that claims 10 GB": (
        lambda path, _: archive(path, stored(sizes(0, (10**10,), (1,)), 10**10), {"0": bytes(400)}),
        DAMAGED,
    ),
    "one number repeated to 10 GB": (
        lambda path, _: archive(path, stored(sizes(0, (10**10,), (0,)), 100), {"0": bytes(400)}),
        DAMAGED,
    ),
    "strides that lead outside": (
        lambda path, _: archive(path, stored(sizes(0, (10, 10), (11, 1)), 100), {"0": bytes(400)}),
        DAMAGED,
    ),
    "an offset that leads outside": (
        lambda path, _: archive(path, stored(sizes(1, (100,), (1,)), 100), {"0": bytes(400)}),
        DAMAGED,
    ),
    "a negative offset": (
        lambda path, _: archive(path, stored(sizes(-1, (10,), (1,)), 100), {"0": bytes(400)}),
        DAMAGED,
    ),
    "a storage with the name of another file": (other_path, DAMAGED),
    "a format from before archives": (legacy, f"has the format from before PyTorch 1.6, .*{TRUST}"),
    "a tar archive": (tar, DAMAGED),
    "a recursion of 5 million levels": (
        lambda path, _: archive(path, b"\x80\x02" + b"]" * 5_000_000 + b"a" * 4_999_999 + b"."),
        NOT_YOLO,
    ),
    "a quantised training": (
        lambda path, _: saved(path, modelopt={"a": 1}),
        f"has the state of a quantised training, .*{TRUST}",
    ),
    "a list of 15 million lists": (
        lambda path, _: archive(path, b"\x80\x02](" + b"]" * 15_000_000 + b"e."),
        f"needs far more memory|{NOT_YOLO}",
    ),
    "a list in itself": (
        lambda path, _: with_module(path, lambda network: network.yaml.update(backbone=endless())),
        "a layer in its architecture that Ultralytics does not ship",
    ),
    "a billion laughs": (
        lambda path, _: with_module(path, lambda network: network.yaml.update(nc=laughs())),
        "a value of nc that Ultralytics does not ship",
    ),
    "a billion laughs in a layer": (
        lambda path, _: with_module(path, lambda network: network.yaml["head"].insert(0, laughs())),
        "a layer in its architecture that Ultralytics does not ship",
    ),
    "a billion laughs as the names": (
        lambda path, _: with_module(path, lambda network: setattr(network, "names", {0: laughs()})),
        f"has class names that are not plain texts, .*{TRUST}",
    ),
    "a key of a million nested tuples": (
        lambda path, _: archive(path, b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s."),
        DAMAGED,
    ),
    "a set of a million nested tuples": (
        lambda path, _: archive(path, b"\x80\x02cbuiltins\nset\n])" + b"\x85" * 10**6 + b"a\x85R."),
        DAMAGED,
    ),
    "a billion laughs as a key": (
        lambda path, _: archive(path, b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s."),
        DAMAGED,
    ),
    "a network with a billion modules": (
        lambda path, _: with_module(path, lambda network: network.model.append(doubled())),
        DAMAGED,
    ),
    "a huge memo": (
        lambda path, _: archive(path, b"\x80\x02}r\xff\xff\xff\xffh\xff."),
        DAMAGED,
    ),
    "a huge integer": (
        lambda path, _: archive(path, b"\x80\x02\x8b\xff\xff\xff\x7f" + bytes(1000) + b"."),
        DAMAGED,
    ),
    "a text that claims 4 GB": (
        lambda path, _: archive(path, b"\x80\x02X\xff\xff\xff\xff" + bytes(1000) + b"."),
        DAMAGED,
    ),
    "protocol 5 with buffers elsewhere": (
        lambda path, _: archive(path, pickle.dumps(np.zeros(9), 5, buffer_callback=lambda _: None)),
        f"has the pickle instruction FRAME, .*{TRUST}",
    ),
    "a registered extension": (
        lambda path, _: archive(path, b"\x80\x02\x82\x01."),
        f"has the pickle instruction EXT1, .*{TRUST}",
    ),
    "names in NumPy's format": (
        lambda path, _: with_module(path, lambda network: setattr(network, "names", {0: np.str_("cat")})),
        f"has class names that are not plain texts, such as texts in NumPy's format: {TRUST}",
    ),
    "names that are a text": (
        lambda path, _: with_module(path, lambda network: setattr(network, "names", "cat")),
        f"has class names that are not plain texts, .*{TRUST}",
    ),
    "a long name that many classes share": (
        lambda path, _: with_module(path, lambda network: setattr(network, "names", dict.fromkeys(range(50), LONG))),
        f"has far longer class names than a YOLO model needs: {TRUST}",
    ),
    "an empty pickle": (lambda path, _: archive(path, b""), DAMAGED),
    "a name with control characters": (
        lambda path, _: saved(path).rename(path) and rewrite_name(path),
        r"needs torch\.nn\.modules\.conv\.\?\[31m2d, which",
    ),
    "a file name with control characters": (
        lambda path, _: saved(path, other=os.getcwd).rename(path.with_name("\x1b[31m\n-hostile.pt")),
        r"\?\[31m\?-hostile\.pt needs posix\.getcwd, which",
    ),
}


def endless() -> list[Any]:
    """Return a list that contains itself."""
    items: list[Any] = []
    items.append(items)
    return items


def laughs() -> list[Any]:
    """Return a list of lists with 2**40 elements, which a pickle describes in 40 lines."""
    items: list[Any] = ["ha"]
    for _ in range(40):
        items = [items, items]
    return items


def doubled() -> torch.nn.Module:
    """Return a module that contains another module 2**30 times, through 30 levels of nesting."""
    module: torch.nn.Module = torch.nn.Identity()
    for _ in range(30):
        module = torch.nn.Sequential(OrderedDict(a=module, b=module))
    return module


def rewrite_name(path: Path) -> Path:
    """Replace the name of a class by one that would change the colours of a terminal."""
    content = path.with_name("named.pt")
    return rewrite(path, content, lambda data: data.replace(b"conv\nConv2d", b"conv\n\x1b[31m2d")).rename(path)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.only_with_chaos if kind in SLOW else ()) for kind in REFUSALS]
)
def test_a_hostile_checkpoint_runs_nothing_and_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    make, says = REFUSALS[kind]
    trace = tmp_path / "trace"
    path = make(tmp_path / "hostile.pt", trace)
    reading = read(path, tmp_path / "hostile.safetensors")
    assert re.search(says, reading.sentence), reading.sentence
    assert reading.status == REFUSED
    assert "\n" not in reading.sentence
    assert len(reading.sentence) < 700
    assert "hostile.pt" in reading.sentence
    assert reading.peak_mib < MAX_PEAK_MIB
    assert not trace.exists()
    assert not (tmp_path / "hostile.safetensors").exists()


def test_a_checkpoint_that_is_too_large_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "huge.pt"
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(10 * 2**30)  # the file has a hole, and takes almost no space
    for use in (weights_module.check_weights, lambda args: load(args, has_gpu=False)):
        with pytest.raises(ModelError, match=r"huge\.pt has 10\.0 GiB, but checkpoints are read only up to 4 GiB"):
            use(ModelArgs(weights=path))


def test_a_checkpoint_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_TIMEOUT_S", 0.01)
    with pytest.raises(ModelError, match=r"reading slow\.pt took more than 0\.01 s"):
        without_pickle(saved(tmp_path / "slow.pt"), None, tmp_path)


def test_no_module_is_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "safetensors.py").write_text("import os; os.mkdir('trace')")
    monkeypatch.chdir(tmp_path)
    assert without_pickle(saved(tmp_path / "good.pt"), None, tmp_path).exists()
    assert not (tmp_path / "trace").exists()


def test_a_checkpoint_with_too_many_settings_is_refused(tmp_path: Path) -> None:
    def add_settings(network: Any) -> None:
        for module in network.modules():
            if isinstance(module, Conv):
                module.note = "x" * 100_000

    path = with_module(tmp_path / "large.pt", add_settings)
    with pytest.raises(ModelError, match=r"large\.pt has far more settings of modules"):
        without_pickle(path, None, tmp_path)


@pytest.mark.parametrize("trusted", [pytest.param(True, marks=pytest.mark.only_with_chaos), False])
def test_an_apostrophe_in_the_path_leads_to_no_other_file(tmp_path: Path, trusted: bool) -> None:
    """Ultralytics' own function would remove the apostrophe, and then look for the file on the internet."""
    folder = tmp_path / "o'neil"
    folder.mkdir()
    path = saved(folder / "it's.pt")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if trusted else None
    args = ModelArgs(weights=path, weights_sha256=sha256, engine="openvino", image_size_px=64, cache_dir=folder)
    assert load(args, has_gpu=False).info.labels == ("class 0", "class 1")
