"""The folders that settings name, tried before anything is started: a replica would fail again and again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from serve_app.config import StreamArgs
from serve_app.errors import ConfigError

T = TypeVar("T")


def check_folders(streams: StreamArgs, application: str) -> None:
    """Make the folder of streams' states. Raises ConfigError for a folder that cannot be used, with its setting.

    A folder that somebody else fills or empties is not made: something may have to be mounted there.
    """
    _check_ours("streams.state_dir", lambda: streams.state_folder(application))
    for folder in _known("streams.media_dirs", streams.folders):
        _check_there("streams.media_dirs", folder)
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ConfigError(f"streams.media_dirs: {folder} cannot be read: allow it to user {os.getuid()}")
    output = _known("streams.output_dir", streams.output_folder)
    if output is not None:
        _check_there("streams.output_dir", output)
        _check_writable("streams.output_dir", output)


def _check_ours(setting: str, find: Callable[[], Path]) -> None:
    folder = _known(setting, find)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            f"{setting}: {folder} cannot be made ({exc.strerror}): set {_variable(setting)} to another folder"
        ) from exc
    _check_writable(setting, folder)


def _check_there(setting: str, folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(
            f"{setting}: {folder} is not there, or no folder: make it, or mount what belongs there, "
            f"or set {_variable(setting)} to another one"
        )


def _check_writable(setting: str, folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
    except OSError as exc:
        raise ConfigError(
            f"{setting}: {folder} cannot be written ({exc.strerror}): set {_variable(setting)} to another folder"
        ) from exc


def _known(setting: str, find: Callable[[], T]) -> T:
    """What ``find`` returns. Raises ConfigError where nobody knows the home, or the folder that we are in is gone."""
    try:
        return find()
    except (RuntimeError, OSError) as exc:
        reason = "the folder in which this was started is gone" if isinstance(exc, OSError) else str(exc).rstrip(".")
        raise ConfigError(f"{setting}: {reason}: set {_variable(setting)} to an absolute path") from exc


def _variable(setting: str) -> str:
    return f"SERVE_APP_{setting.partition('.')[2].upper()}"
