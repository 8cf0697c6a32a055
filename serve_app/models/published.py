"""The models that Ultralytics publishes for the supported tasks.

Each is fetched once, and its hash is pinned at its first use.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from serve_app.disk import sync_folder
from serve_app.errors import ModelError
from serve_app.models.cache import locked
from serve_app.models.failures import model_errors
from serve_app.models.formats import check_start
from serve_app.models.hashes import sha256_of
from serve_app.network.address_guard import AddressGuard
from serve_app.network.download import Download, DownloadFailed

logger = logging.getLogger(__name__)

_TASKS = ("", "-seg", "-pose", "-obb", "-cls")
_FAMILIES = (
    *(f"yolov8{{}}{task}.pt" for task in _TASKS),
    "yolov8{}-oiv7.pt",
    *(f"yolo11{{}}{task}.pt" for task in _TASKS),
    "yolo12{}.pt",
    *(f"yolo26{{}}{task}.pt" for task in _TASKS),
    "yolo26{}-distill.pt",
    "yolo26{}-objv1-150.pt",
    "yolo26{}-objv1-seg.pt",
)
NAMES = frozenset(family.format(size) for family in _FAMILIES for size in "nsmlx")
_VARIANT = re.compile(r"(yolo(?:v8|11|12|26)[nsmlx])-[\w-]+\.(?:pt|onnx)")  # such as yolo26n-depth.pt
_VERSION = re.compile(r"\d+")  # the first number in a name, which distinguishes the families
_MIN_SIMILARITY = 0.8  # of a misspelt name, as difflib measures it
_CHECKPOINT_START = b"PK\x03\x04"  # torch.save() writes ZIP archives
_PIN = re.compile(r"([0-9a-f]{64}) [ *](.+)\n?")


@dataclass(frozen=True)
class Release:
    """A place where models are published: the address of its folder, and the hosts that may send its files."""

    address: str
    hosts: frozenset[str]
    max_bytes: int = 512 << 20  # far more than any of the models has
    guard: AddressGuard = field(default_factory=AddressGuard)

    def url(self, name: str) -> str:
        """Return the address of a model."""
        return f"{self.address}/{name}"


ULTRALYTICS = Release(
    "https://github.com/ultralytics/assets/releases/download/v8.4.0",
    # GitHub redirects to one of its hosts for files. It has used both of these.
    frozenset({"github.com", "release-assets.githubusercontent.com", "objects.githubusercontent.com"}),
)


class Progress(Protocol):
    """A display of a download while it runs."""

    def wait(self, name: str) -> None:
        """Report that another process is fetching the file, and that this process waits for it."""

    def update(self, name: str, received_bytes: int, size_bytes: int) -> None:
        """Report how much of the file has been received."""


class LogLines:
    """Progress in the log: one line when the download starts, and one when it has ended."""

    def __init__(self) -> None:
        self._has_started = False

    def wait(self, name: str) -> None:
        """Log that another process fetches the file."""
        logger.info("waiting for another process, which is fetching %s", name)

    def update(self, name: str, received_bytes: int, size_bytes: int) -> None:
        """Log the first and the last report about the file."""
        if not self._has_started:
            self._has_started = True
            logger.info("fetching %s (%.1f MB)", name, size_bytes / 1e6)
        if received_bytes == size_bytes:
            logger.info("fetched %s", name)


def check_name(name: str) -> None:
    """Raise ModelError unless ``name`` is in ``NAMES``. The error names the most similar model, if there is one."""
    if name in NAMES:
        return
    if other := unsupported(name):
        raise ModelError(other)
    raise ModelError(f"model.weights: Ultralytics publishes no model {name}{suggestion(name)}")


def unsupported(name: str) -> str:
    """Return a sentence that refuses a published model that is not supported, or "" for any other name."""
    found = _VARIANT.fullmatch(name)
    if found is None or name in NAMES:
        return ""
    return (
        f"model.weights: {name} is published, but its task or its kind of images is not supported: use a model such as "
        f"{found[1]}.pt"
    )


def suggestion(name: str) -> str:
    """Return the end of a sentence that names the published model with the most similar name, or "".

    Only models of the same version are compared, because yolov9c.pt is another model, not a misspelt yolov8x.pt.
    """
    wanted = name.lower().removesuffix(".pt") + ".pt"
    family = [known for known in sorted(NAMES) if _VERSION.findall(known)[:1] == _VERSION.findall(wanted)[:1]]
    found = difflib.get_close_matches(wanted, family, 1, _MIN_SIMILARITY)
    return f"; if you mean the published model {found[0]}, set that name" if found else ""


@model_errors()
def fetch(
    name: str,
    folder: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    release: Release = ULTRALYTICS,
) -> Path:
    """Return the path of a published model in ``folder``. Download the model first if it is not there.

    All processes that share the folder wait for a single download. The hash of the file is pinned at its first use,
    except in a folder that is not writable. ``sha256``: the hash that a downloaded file must have. Raise ModelError
    when the model cannot be downloaded, or differs from its pinned hash.
    """
    check_name(name)
    progress = progress or LogLines()
    target = folder / name
    if os.path.exists(target) and os.path.exists(_pin_of(target)):
        _check_pin(target, target)
        return target
    if target.exists() and not os.access(folder, os.W_OK):
        logger.warning("the hash of %s is not pinned, because %s is not writable", name, folder)
        return target
    with locked(folder / f"{name}.lock", lambda: progress.wait(name)):
        if not target.exists():
            part = folder / f"{name}.part"
            _download(part, target, progress, release)
            _accept(part, target, sha256)
        check_start(target)  # before the pin, so that an empty file is not pinned
        _check_pin(target, target)
    return target


def _download(part: Path, target: Path, progress: Progress, release: Release) -> None:
    name, url = target.name, release.url(target.name)
    download = Download(
        url,
        part,
        hosts=release.hosts,
        max_bytes=release.max_bytes,
        report=lambda received_bytes, size_bytes: progress.update(name, received_bytes, size_bytes),
        guard=release.guard,
    )
    try:
        asyncio.run(download.run())
    except DownloadFailed as exc:
        raise ModelError(
            f"model.weights: {name} cannot be fetched ({exc}): fetch {url} on a machine that can, and copy the file to "
            f"{target}, or set model.weights to its path"
        ) from exc
    except OSError as exc:
        download.discard()  # a part of a file must not fill the disk
        raise ModelError(
            f"model.cache_dir: {name} cannot be written to {target.parent} ({exc.strerror}): free some space there, or "
            "set SERVE_APP_CACHE_DIR to another folder"
        ) from exc


def _accept(part: Path, target: Path, sha256: str | None) -> None:
    """Check a downloaded file, pin its hash, and rename it to ``target``. Delete the file if it is refused."""
    try:
        with part.open("rb") as file:
            if file.read(len(_CHECKPOINT_START)) != _CHECKPOINT_START:
                raise ModelError(f"model.weights: the server sent something other than {target.name}: try again later")
        found = sha256_of(part)
        if sha256 is not None and found != sha256.lower():
            raise ModelError(
                f"model.weights_sha256 does not match the published {target.name}, whose hash is {found}: check that "
                "this is the right model"
            )
        _check_pin(part, target)
    except ModelError:
        part.unlink()
        raise
    os.replace(part, target)
    sync_folder(target.parent)


def _check_pin(file: Path, target: Path) -> None:
    """Raise ModelError if the hash of ``file`` is not the one pinned for ``target``. If none is pinned, pin it."""
    pin = _pin_of(target)
    found = sha256_of(file)
    if not pin.exists():
        new = pin.with_name(f"{pin.name}.new")
        new.unlink(missing_ok=True)  # a killed process may have left it
        with new.open("x") as opened:  # refuses a link, which could lead to a file of another program
            opened.write(f"{found}  {target.name}\n")  # the format of sha256sum
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(new, pin)
        return
    pinned = _PIN.fullmatch(pin.read_text("utf-8", "replace"))
    if pinned is None or pinned[2] != target.name:
        raise ModelError(f"model.weights: {pin} is not a line of sha256sum for {target.name}: delete or correct it")
    if found != pinned[1]:
        origin = "in model.cache_dir" if file == target else "that is published now"
        raise ModelError(
            f"model.weights: the {target.name} {origin} has the hash {found}, but at its first use it had {pinned[1]}: "
            f"if you trust the new file, delete {pin}"
        )


def _pin_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")
