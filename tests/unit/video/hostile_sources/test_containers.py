"""Video containers that refer to other files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import av
import pytest

from serve_app.errors import SourceError
from tests.support.hostile_sources import FRAMES, frames_of, save


def _box(data: bytes | bytearray, *names: bytes) -> list[int]:
    """Return the offset of each named box of a QuickTime file. Each box must be inside the previous one."""
    begins, at = [], 0
    for name in names:
        while True:
            size, kind = struct.unpack_from(">I4s", data, at)
            if kind == name:
                break
            at += size
        begins.append(at)
        at += 8
    return begins


def _alias(path: Path) -> bytes:
    """Return a Mac OS alias that refers to a file.

    The path must have an even length, because FFmpeg would read a padding byte as a "/".
    """
    target = os.fsencode(path)
    assert len(target) % 2 == 0
    head = struct.pack(">4xHHHB27s4x2s6xB63s16xhh16x", 0, 2, 0, 4, b"disk", b"H+", 1, b"x", -1, -1)
    return head + struct.pack(">hH", 2, len(target)) + target + b"\xff\xff\0\0"


def outside(movie: bytes, path: Path) -> bytes:
    """Return the movie with a reference to the file at ``path``, from which a player would take the frames."""
    data = bytearray(movie)
    *parents, at = _box(data, b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
    alias = _alias(path)
    reference = struct.pack(">I4s4xII4s4x", 28 + len(alias), b"dref", 1, 12 + len(alias), b"alis") + alias
    (size,) = struct.unpack_from(">I", data, at)
    data[at : at + size] = reference
    for parent in parents:
        struct.pack_into(">I", data, parent, struct.unpack_from(">I", data, parent)[0] + len(reference) - size)
    (frames,) = _box(data, b"mdat")
    (size,) = struct.unpack_from(">I", data, frames)
    data[frames + 8 : frames + size] = bytes(size - 8)
    return bytes(data)


def test_a_movie_whose_frames_are_in_another_file_is_not_shown(secret: Path, media: Path) -> None:
    movie = save(secret.with_name("x" * (1 + len(os.fsencode(secret.parent)) % 2) + ".mov"), "mjpeg")
    (media / "a.mov").write_bytes(outside(movie.read_bytes(), movie))
    willing = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(media / "a.mov"), options=willing) as container:
        assert len(list(container.decode(video=0))) == FRAMES  # FFmpeg follows the reference if we allow it
    with pytest.raises(SourceError):
        frames_of(media / "a.mov", media)
