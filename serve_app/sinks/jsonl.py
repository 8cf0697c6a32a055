"""The JSON Lines sink, which writes one line per event to a file, and rotates the file at a size limit."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from serve_app.errors import InvalidParameter
from serve_app.schemas.streams import JsonLinesSink
from serve_app.sinks.outlet import DeliveryFailed, fill_template
from serve_app.types import Event

_MIB = 1 << 20


class JsonLinesOutlet:
    """Appends to files below the stream's own folder, so that streams cannot write to each other's files.

    We do not create ``output_dir``, because a missing folder may be the mount point of a volume. A file is open only
    during a write, so it may be moved away at any time. Writing continues once a full disk has space again.
    """

    max_batch = 1000

    def __init__(self, spec: JsonLinesSink, stream_id: str, output_dir: Path) -> None:
        """Resolve the paths. Raise InvalidParameter if a path is not valid or is outside the stream's folder."""
        self.target = f"{stream_id}/{fill_template(spec.path, stream_id, '{type}')}"
        self._output_dir = output_dir.resolve()
        self._folder = self._output_dir / stream_id
        self._paths: dict[str, Path] = {
            kind: self._resolve(fill_template(spec.path, stream_id, kind)) for kind in spec.events
        }
        self._max_bytes = int(spec.max_mib * _MIB)
        self._keep = spec.keep

    async def send(self, events: list[Event]) -> None:
        """Append the events, in a thread because the disk may be slow."""
        lines: dict[Path, list[str]] = {}
        for event in events:
            lines.setdefault(self._paths[event.type], []).append(event.json + "\n")
        try:
            await asyncio.to_thread(self._write, lines)
        except OSError as exc:
            raise DeliveryFailed(f"the file cannot be written: {exc.strerror or type(exc).__name__}") from exc

    async def close(self) -> None:
        """Do nothing, because no file stays open."""

    def _resolve(self, name: str) -> Path:
        try:
            path = (self._folder / name).resolve()
        except (ValueError, OSError, RuntimeError) as exc:
            raise InvalidParameter("sinks: path is not a valid file name") from exc
        if self._folder not in path.parents:
            raise InvalidParameter("sinks: path must stay inside the stream's folder")
        return path

    def _write(self, lines: dict[Path, list[str]]) -> None:
        for path, path_lines in lines.items():
            for folder in reversed(path.relative_to(self._output_dir).parents[:-1]):
                (self._output_dir / folder).mkdir(mode=0o700, exist_ok=True)
            self._append(path, "".join(path_lines).encode())

    def _append(self, path: Path, data: bytes) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size and size + len(data) > self._max_bytes:
            self._rotate(path)
        with open(path, "ab", buffering=0, opener=_private) as file:
            size = file.tell()
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                with suppress(OSError):
                    file.truncate(size)  # the sink will send all lines again, so the file must keep none of them
                raise

    def _rotate(self, path: Path) -> None:
        """Rename the file to ``.1``, the previous ``.1`` to ``.2`` and so on. Overwrite the oldest file."""
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                path.with_name(f"{path.name}.{number}").replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
