"""Uploaded files as a source, and the writing of their pieces.

A file is below its own name only when it is whole. Until then, it has a hidden name.
"""

from __future__ import annotations

import os
from pathlib import Path

from serve_app.config import AppArgs
from serve_app.disk import FULL, sync_folder
from serve_app.errors import Conflict, InvalidParameter, NoSpace
from serve_app.jobs.sources.files import FilesSource, Place
from serve_app.schemas.jobs import VIDEO_ENDINGS

_FOLDER = "uploads"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_MAX_NAME_BYTES = 240  # with the ending of an incomplete file, a name may have 255


def open_uploads(folder: Path, args: AppArgs) -> FilesSource:
    """Return the source for the files that were uploaded to a job's folder."""
    uploads = (folder / _FOLDER).resolve()
    return FilesSource("upload", Place(uploads, uploads), "", args.limits.max_body_mib << 20, _is_whole)


def put_piece(folder: Path, name: str, offset: int, data: bytes, *, last: bool) -> None:
    """Write a piece of an uploaded file at ``offset``, and with the last piece, give the file its name. This blocks.

    A piece may be repeated. Raise InvalidParameter if the name is not valid, Conflict if an earlier piece is missing,
    and NoSpace if the disk is full.
    """
    check_name(name)
    path = folder / _FOLDER / name
    part = path.with_name(f".{name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if offset == 0 else 0)
        with os.fdopen(os.open(part, flags, 0o600), "r+b") as file:
            if (size := os.fstat(file.fileno()).st_size) < offset:
                raise Conflict(f"the file {name} has {size} bytes so far; continue at this offset")
            file.truncate(offset)
            file.seek(offset)
            file.write(data)
            file.flush()
            if last:
                os.fsync(file.fileno())
        if last:
            part.replace(path)
            sync_folder(path.parent)
    except FileNotFoundError:
        if last and _size(path) == offset + len(data):
            return  # the last piece is repeated, because its reply was lost
        raise Conflict(f"the file {name} has 0 bytes so far; continue at this offset") from None
    except OSError as exc:
        if exc.errno in FULL:
            raise NoSpace("the disk is full; free some space, or delete jobs that are no longer needed") from None
        raise


def check_name(name: str) -> None:
    """Raise InvalidParameter unless ``name`` is a plain file name that is not hidden and may be an image's."""
    try:
        is_valid = 0 < len(name.encode()) <= _MAX_NAME_BYTES
    except UnicodeEncodeError:
        is_valid = False
    if not is_valid or name.startswith(".") or "/" in name or "\\" in name or not name.isprintable():
        raise InvalidParameter(
            f"name: it must be a file name of at most {_MAX_NAME_BYTES} bytes that does not start with a dot and has "
            "no slash; rename the file"
        )
    for kind, endings in (("archive", _ARCHIVES), ("video", VIDEO_ENDINGS)):
        if name.lower().endswith(endings):
            raise InvalidParameter(
                f"name: {name} is not an image, and only images can be uploaded; send the images in it, or let the "
                f"server read the file itself with a source of the type {kind}"
            )


def _is_whole(name: str) -> bool:
    return not name.startswith(".")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
