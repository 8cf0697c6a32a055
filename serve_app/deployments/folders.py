"""Check the folders whose paths are in the settings.

Without this check, a replica that cannot use a folder would fail and restart forever.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from serve_app.collect_args import CollectArgs
from serve_app.config import StreamArgs
from serve_app.errors import ConfigError

T = TypeVar("T")


def check_folders(streams: StreamArgs, application: str) -> None:
    """Create ``streams.state_dir``, and check the other folders. Raise ConfigError if a folder cannot be used.

    The other folders are not created, because a missing folder may mean that a file system is not mounted.
    """
    _create_own("streams.state_dir", lambda: streams.state_folder(application))
    for folder in _resolved("streams.media_dirs", streams.folders):
        _check_exists("streams.media_dirs", folder)
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ConfigError(f"streams.media_dirs: {folder} cannot be read: give user {os.getuid()} read access")
    output = _resolved("streams.output_dir", streams.output_folder)
    if output is not None:
        _check_exists("streams.output_dir", output)
        _check_writable("streams.output_dir", output)


def check_collection(collect: CollectArgs) -> None:
    """Raise ConfigError if ``collect.folder`` is set and cannot be used.

    The folder is not created, because a missing folder may mean that a file system is not mounted.
    """
    folder = _resolved("collect.folder", collect.collection_folder)
    if folder is not None:
        _check_exists("collect.folder", folder)
        _check_writable("collect.folder", folder)


def _create_own(setting: str, find: Callable[[], Path]) -> None:
    folder = _resolved(setting, find)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            f"{setting}: {folder} cannot be created ({exc.strerror}): set {_variable(setting)} to another folder"
        ) from exc
    _check_writable(setting, folder)


def _check_exists(setting: str, folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(
            f"{setting}: {folder} does not exist or is not a folder: create or mount it, or set {_variable(setting)} "
            "to another folder"
        )


def _check_writable(setting: str, folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
    except OSError as exc:
        raise ConfigError(
            f"{setting}: {folder} cannot be written ({exc.strerror}): set {_variable(setting)} to another folder"
        ) from exc


def _resolved(setting: str, find: Callable[[], T]) -> T:
    """Return the result of ``find``.

    Raise ConfigError if ``find`` needs the home folder or the working folder, and that folder is missing.
    """
    try:
        return find()
    except (RuntimeError, OSError) as exc:
        reason = "the working folder no longer exists" if isinstance(exc, OSError) else str(exc).rstrip(".")
        raise ConfigError(f"{setting}: {reason}: set {_variable(setting)} to an absolute path") from exc


def _variable(setting: str) -> str:
    return f"SERVE_APP_{setting.removeprefix('streams.').replace('.', '_').upper()}"
