"""The recordings of a stream: the finished clips, and the snapshots, that its recorder keeps in one folder."""

from __future__ import annotations

import calendar
import errno
import heapq
import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from serve_app.errors import NotFound, Unavailable
from serve_app.schemas.recording import FilePiece, RecordedClip, RecordingList

CLIP, SNAPSHOT, PART = ".mp4", ".jpg", ".part"
_FILE = re.compile(r"[12]\d{3}-(?:0[1-9]|1[0-2])-\d\dT\d\d-\d\d-\d\d\.\d{3}Z\.(?:mp4|mp4\.part|jpg)", re.ASCII)


def name_at(at_s: float) -> str:
    """Return the name of a recording that begins at ``at_s``, without a suffix. Names sort by time."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")[:-3] + "Z"


def _time_of(name: str) -> float:
    *date_and_time, millisecond = map(int, re.findall(r"\d+", name))
    return calendar.timegm(tuple(date_and_time)) + millisecond / 1000


def is_recording(file_name: str) -> bool:
    """Return whether a file of the folder was written by a recorder."""
    return _FILE.fullmatch(file_name) is not None


class Recordings:
    """The files that a recorder has written to ``folder`` since ``since_s``, which is in seconds since the epoch.

    Files from before belong to an earlier stream with the same id, which may have had another owner.
    """

    def __init__(self, folder: Path, since_s: float) -> None:
        self._folder = folder
        self._first = name_at(since_s)

    def page(self, before: str | None, limit: int) -> RecordingList:
        """Return the newest recordings whose names are below ``before``, the newest first.

        Raise Unavailable if the folder cannot be read.
        """
        files = self._files()
        clips = (file.removesuffix(PART).removesuffix(CLIP) for file in files if not file.endswith(SNAPSHOT))
        names = {name for name in clips if self._first <= name and (before is None or name < before)}
        newest = heapq.nlargest(limit, names)
        return RecordingList(
            recordings=[self._recording(name, files) for name in newest],
            next=newest[-1] if len(newest) < len(names) else None,
        )

    def read(self, file_name: str, offset: int, size: int) -> FilePiece:
        """Return at most ``size`` bytes of a clip or a snapshot.

        Raise NotFound if there is no such file, and Unavailable if it cannot be read.
        """
        name, suffix = os.path.splitext(file_name)
        if suffix in {CLIP, SNAPSHOT} and is_recording(file_name) and self._first <= name:
            try:
                with open(os.open(self._folder / file_name, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                    file.seek(offset)
                    return FilePiece(file.read(size), os.fstat(file.fileno()).st_size)
            except OSError as exc:
                if exc.errno not in {errno.ENOENT, errno.ELOOP}:  # ELOOP: it is a link, which no recorder makes
                    raise _unreadable(exc) from exc
        raise NotFound(f"the stream has no recording named {file_name[:64]!r}; list its recordings")

    def _files(self) -> set[str]:
        try:
            return {file for file in os.listdir(self._folder) if is_recording(file)}
        except FileNotFoundError:
            return set()
        except OSError as exc:
            raise _unreadable(exc) from exc

    def _recording(self, name: str, files: set[str]) -> RecordedClip:
        clip, snapshot = name + CLIP, name + SNAPSHOT
        size_bytes = None
        with suppress(FileNotFoundError):  # the recorder may have just deleted it
            size_bytes = (self._folder / clip).stat().st_size
        return RecordedClip(
            name=name,
            triggered_at_s=_time_of(name),
            clip=None if size_bytes is None else clip,
            snapshot=snapshot if snapshot in files else None,
            size_bytes=size_bytes,
        )


def _unreadable(exc: OSError) -> Unavailable:
    return Unavailable(f"streams.output_dir cannot be read ({exc.strerror}); fix this and retry")
