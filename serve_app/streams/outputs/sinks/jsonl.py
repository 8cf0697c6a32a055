"""JSON Lines: a line an event, in a file that is put aside when it is large."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from serve_app.errors import InvalidParameter
from serve_app.schemas.streams import JsonLinesSink
from serve_app.streams.outputs.sinks.outlet import DeliveryFailed, filled
from serve_app.types import Event

_MIB = 1 << 20


class JsonLinesOutlet:
    """Appends to files below the stream's own folder, so that no stream touches another's.

    ``output_dir``, which has it, must be there: what should be mounted is not made up for.
    A file is open only while it is written: it may be moved away at any time, and a full disk needs no reopening.
    """

    max_batch = 1000

    def __init__(self, spec: JsonLinesSink, stream_id: str, output_dir: Path) -> None:
        """Raises InvalidParameter for a path that leads elsewhere."""
        self.target = f"{stream_id}/{filled(spec.path, stream_id, '{type}')}"
        self._output_dir = output_dir.resolve()
        self._folder = self._output_dir / stream_id
        self._paths: dict[str, Path] = {kind: self._resolve(filled(spec.path, stream_id, kind)) for kind in spec.events}
        self._max_bytes = int(spec.max_mib * _MIB)
        self._keep = spec.keep

    async def send(self, events: list[Event]) -> None:
        """In a thread, since a disk may be slow."""
        lines: dict[Path, list[str]] = {}
        for event in events:
            lines.setdefault(self._paths[event.type], []).append(event.json + "\n")
        try:
            await asyncio.to_thread(self._write, lines)
        except OSError as exc:
            raise DeliveryFailed(f"it cannot be written: {exc.strerror or type(exc).__name__}") from exc

    async def close(self) -> None:
        """Nothing is open."""

    def _resolve(self, name: str) -> Path:
        try:
            path = (self._folder / name).resolve()
        except (ValueError, OSError, RuntimeError) as exc:
            raise InvalidParameter("a sink's path is no valid file name") from exc
        if self._folder not in path.parents:
            raise InvalidParameter("a sink's path leads out of its stream's folder")
        return path

    def _write(self, lines: dict[Path, list[str]]) -> None:
        for path, of_path in lines.items():
            for folder in reversed(path.relative_to(self._output_dir).parents[:-1]):
                (self._output_dir / folder).mkdir(mode=0o700, exist_ok=True)
            self._append(path, "".join(of_path).encode())

    def _append(self, path: Path, data: bytes) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size and size + len(data) > self._max_bytes:
            self._put_aside(path)
        with open(path, "ab", buffering=0, opener=_private) as file:
            size = file.tell()
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                with suppress(OSError):
                    file.truncate(size)  # no half line, and no line twice: all of it is written again
                raise

    def _put_aside(self, path: Path) -> None:
        """The file becomes ``.1``, that one ``.2`` and so on; the last one goes."""
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                path.with_name(f"{path.name}.{number}").replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
