"""Add an entry to the API-key file, which a running service may be reading."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from serve_app.api.access.keys import Key, parse_keys
from serve_app.cli.errors import CommandFailed
from serve_app.errors import ConfigError
from serve_app.types import Json

_NEW_FILE_MODE = 0o600
_ENTRY = re.compile(r"^( *)- ", re.MULTILINE)


def add_entry(file: Path, entry: Json) -> None:
    """Add an entry to the file, or create the file, so that only its owner can read it.

    The file is replaced as a whole, so a service never reads half an entry. The text of the other entries and all
    comments stay unchanged. Raise CommandFailed if the file has a key with the same name, or cannot be changed.
    """
    file = file.resolve()  # replace the target of a link, not the link
    try:
        with _locked(file.parent):
            old = file.read_text(encoding="utf-8") if file.exists() else ""
            keys = _keys(old)
            if entry["name"] in {key.name for key in keys}:
                raise CommandFailed(
                    f"--file: {file} has a key named {entry['name']} already: choose another name; to replace that "
                    "key, leave out --file, and add the printed entry yourself"
                )
            new = _added(old, entry, is_first=not keys)
            parse_keys(new)
            _replace(file, new)
    except OSError as exc:
        raise CommandFailed(f"--file: {file} cannot be changed ({exc.strerror}): choose another file") from exc
    except (ConfigError, UnicodeDecodeError) as exc:  # neither error quotes the file, which may have a pasted key
        raise CommandFailed(
            f"--file: no entry can be added to {file}: correct the file, and write each of its entries as `- name: …` "
            f"({exc})"
        ) from exc


def _keys(text: str) -> tuple[Key, ...]:
    """Return the entries of a file, which may also be empty or have only comments."""
    is_empty = all(line.strip() == "" or line.startswith("#") for line in text.splitlines())
    return () if is_empty else parse_keys(text)


def _added(old: str, entry: Json, is_first: bool) -> str:
    """Return the text of the file with the new entry at its end, indented like the other entries."""
    if is_first:  # the text has only comments, and perhaps an empty list
        old = "\n".join(line for line in old.splitlines() if line.startswith("#"))
    indent = _ENTRY.search(old)
    added = yaml.safe_dump([entry], sort_keys=False)
    return (old.rstrip("\n") + "\n").lstrip("\n") + textwrap.indent(added, indent[1] if indent else "")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for other commands that are changing a file in this folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(file: Path, text: str) -> None:
    descriptor, new = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        os.chmod(new, file.stat().st_mode & 0o7777 if file.exists() else _NEW_FILE_MODE)
        if file.exists():
            with suppress(PermissionError):  # only root may keep the owner of another user's file
                os.chown(new, file.stat().st_uid, file.stat().st_gid)
        os.replace(new, file)
    except BaseException:
        os.unlink(new)
        raise
