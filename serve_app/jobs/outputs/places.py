"""The places to which outputs are written: the job's own folder, a folder below the output folder, or a bucket."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from serve_app.config import AppArgs
from serve_app.errors import InvalidParameter, SourceError
from serve_app.jobs.buckets import ObjectUri, check_allowed, open_bucket, parse_object_uri, unavailable
from serve_app.jobs.outputs.files import remove_parts, write_file
from serve_app.jobs.outputs.results import OutputUnwritable


class Place(Protocol):
    """A place for files. All names are relative, with slashes."""

    def copy(self, path: Path) -> None:
        """Write a file under its own name. This blocks. Raise NoSpace, Unavailable or OutputUnwritable."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file. This blocks, and raises the errors of ``copy``."""

    async def put(self, name: str, data: bytes) -> None:
        """Write a small file, as ``write`` does."""


class FolderPlace:
    """A folder on this machine, or on a file system that all nodes share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def copy(self, path: Path) -> None:
        """Copy a file into the folder, unless it is there already."""
        if path.parent != self._folder:
            remove_parts(self._folder)
            with open(path, "rb") as source:
                write_file(self._folder / path.name, lambda file: shutil.copyfileobj(source, file, 1 << 20))

    def write(self, name: str, data: bytes) -> None:
        """Write a small file below the folder, whole or not at all."""
        write_file(self._folder / name, lambda file: file.write(data))

    async def put(self, name: str, data: bytes) -> None:
        """Write a small file in a thread."""
        await asyncio.to_thread(self.write, name, data)


class ObjectPlace:
    """A prefix of a bucket. An object is complete, or does not exist."""

    def __init__(self, uri: ObjectUri) -> None:
        """Connect to nothing. Raise the errors of ``open_bucket``."""
        self._uri = uri
        self._bucket = open_bucket(uri)

    def copy(self, path: Path) -> None:
        """Upload a file, in parts if it is large."""
        with self._as_refusals():
            self._bucket.put(self._key(path.name), path)

    def write(self, name: str, data: bytes) -> None:
        """Upload a small file."""
        with self._as_refusals():
            self._bucket.put(self._key(name), data)

    async def put(self, name: str, data: bytes) -> None:
        """Upload a small file, as ``write`` does."""
        with self._as_refusals():
            await self._bucket.put_async(self._key(name), data)

    def _key(self, name: str) -> str:
        return f"{self._uri.key}/{name}" if self._uri.key else name

    @contextmanager
    def _as_refusals(self) -> Iterator[None]:
        from obstore.exceptions import BaseError, PermissionDeniedError

        bucket = f"{self._uri.scheme}://{self._uri.bucket}"
        try:
            yield
        except FileNotFoundError as exc:
            raise OutputUnwritable(f"outputs: {bucket} does not exist; create it, or name another bucket") from exc
        except (PermissionDeniedError, PermissionError) as exc:
            raise OutputUnwritable(
                f"outputs: {bucket} may not be written with the server's credentials; allow it, or name another bucket"
            ) from exc
        except (BaseError, OSError, TimeoutError) as exc:  # the text of these errors has addresses
            raise unavailable(bucket) from exc


def open_place(uri: str, args: AppArgs, own_folder: Path) -> Place:
    """Return the place of an output. An empty ``uri`` means the job's own folder.

    Raise InvalidParameter if the place is not valid or not allowed, or if a library is not installed.
    """
    if not uri:
        return FolderPlace(own_folder)
    if "://" not in uri:
        return FolderPlace(_folder(uri, args))
    try:
        object_uri = parse_object_uri(uri, "outputs: uri")
        check_allowed(object_uri, args.jobs.prefixes(), "outputs: uri")
        return ObjectPlace(object_uri)
    except SourceError as exc:
        raise InvalidParameter(exc.detail) from exc


def _folder(uri: str, args: AppArgs) -> Path:
    output_dir = args.streams.output_folder()
    if output_dir is None:
        raise InvalidParameter("outputs: a folder needs streams.output_dir; set SERVE_APP_OUTPUT_DIR")
    if not os.access(output_dir, os.W_OK | os.X_OK):
        raise InvalidParameter(
            "streams.output_dir (SERVE_APP_OUTPUT_DIR) does not exist or cannot be written; create it or mount its "
            "volume"
        )
    try:
        folder = (output_dir / uri).resolve()
    except (ValueError, OSError, RuntimeError) as exc:
        raise InvalidParameter("outputs: uri is not a valid folder name") from exc
    if output_dir not in folder.parents:
        raise InvalidParameter("outputs: uri must name a folder below streams.output_dir (SERVE_APP_OUTPUT_DIR)")
    return folder
