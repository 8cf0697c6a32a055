"""The collection's folder, which all replicas and streams share: its lock, rate limit, quota and age limit.

A file with a lock holds the size of all kept images and the credit of the rate limit. A process writes the new size
before it writes an image. If it is killed in between, the recorded size is too large, never too small, until the next
sweep counts the files again. The lock of a killed process is released by the system.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from serve_app.collect_args import CollectArgs
from serve_app.collection.dataset import IMAGES, LABELS, PART_SUFFIX, Dataset, label_lines
from serve_app.collection.selection import REASONS, Reason
from serve_app.types import Answer

Refusal = Literal["rate_limit", "quota"]

_STATE = ".state"
_STATE_BYTES = 256  # a fixed size, so that a full disk does not keep the state from being updated
_BLOCK_BYTES = 4096  # in which most file systems allocate space
_SWEEP_INTERVAL_S = 600.0
_MAX_SKEW_S = 60.0  # by which the clocks of several machines may differ
_FREE_SHARE = 0.05  # of the quota, which a sweep frees beyond the need. Otherwise, each image would need a sweep.
_TIME_FORMAT = "%Y%m%dT%H%M%S"
_DIGITS = len("20261129T202727123456Z")
# The files of other programs in the folder are neither counted nor deleted.
_STEM = re.compile(rf"\d{{8}}T\d{{12}}Z-({'|'.join(REASONS)})-[A-Za-z0-9._-]+-[0-9a-f]{{8}}")


class _State(BaseModel):
    """What all processes that share the folder need to know."""

    size_bytes: int  # of all images and labels, or more
    credit: float  # how many images may be kept at once
    credited_at_s: float  # wall clock, because processes of several machines share it
    swept_at_s: float


class _Kept(NamedTuple):
    """An image in the folder, with its labels."""

    stem: str  # begins with the time, so the stems of older images are smaller
    dataset: Path
    size_bytes: int


class CollectionFolder:
    """Keeps images and their labels within the limits. All methods block, and raise OSError if the disk fails."""

    def __init__(self, args: CollectArgs, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._max_bytes = args.max_bytes
        self._max_per_minute = args.max_per_minute
        self._max_age_s = args.max_age_days * 86_400
        self._clock = clock

    def keep(
        self, dataset: Dataset, jpeg: bytes, answer: Answer, reason: Reason, source: str, new: frozenset[int]
    ) -> Refusal | None:
        """Write an image and its labels, and delete the oldest images if the quota needs it.

        ``new`` has the ids of the classes that were never seen before. Return None, or the limit that refuses the
        image.
        """
        labels = label_lines(answer).encode()
        needed = _space(len(jpeg)) + _space(len(labels))
        if needed > self._max_bytes:
            return "quota"
        with self._locked() as (descriptor, state):
            now_s = self._clock()
            self._refill(state, now_s)
            if state.credit < 1:
                return "rate_limit"
            state.credit -= 1
            if state.size_bytes + needed > self._max_bytes:
                self._sweep(state, now_s, needed)
            state.size_bytes += needed
            _write_state(descriptor, state)
            dataset.add(_stem(now_s, reason, source), jpeg, labels)
            if new:
                dataset.add_seen(new)
        return None

    def credit_wait_s(self) -> float:
        """Return the seconds until the rate limit allows an image. Another process may use this credit first."""
        state = _read_state(self._folder / _STATE)
        if state is None:
            return 0.0
        self._refill(state, self._clock())
        return max(1 - state.credit, 0.0) * 60 / self._max_per_minute

    def sweep(self) -> None:
        """Delete images that are too old, unless a process has done so in the last ten minutes.

        Also delete what killed processes have left.
        """
        with self._locked() as (descriptor, state):
            now_s = self._clock()
            if abs(now_s - state.swept_at_s) >= _SWEEP_INTERVAL_S:  # the clock may have been set back
                self._sweep(state, now_s)
                _write_state(descriptor, state)

    @contextmanager
    def _locked(self) -> Iterator[tuple[int, _State]]:
        path = self._folder / _STATE
        # We do not create the folder, because a missing folder may be the mount point of a volume.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            state = _read_state(path)
            if state is None:
                now_s = self._clock()
                state = _State(size_bytes=0, credit=self._max_credit, credited_at_s=now_s, swept_at_s=now_s)
                self._sweep(state, now_s)
            yield descriptor, state
        finally:
            os.close(descriptor)

    @property
    def _max_credit(self) -> float:
        return max(self._max_per_minute, 1.0)

    def _refill(self, state: _State, now_s: float) -> None:
        """Add the credit of the time that has passed."""
        if now_s < state.credited_at_s - _MAX_SKEW_S:  # the clock was set back
            state.credit, state.credited_at_s = self._max_credit, now_s
        elif now_s > state.credited_at_s:
            state.credit += (now_s - state.credited_at_s) * self._max_per_minute / 60
            state.credit, state.credited_at_s = min(state.credit, self._max_credit), now_s

    def _sweep(self, state: _State, now_s: float, needed_bytes: int = 0) -> None:
        """Delete what is too old, and the oldest images if ``needed_bytes`` are not free. Count the rest."""
        kept = self._find_kept()
        size_bytes = sum(one.size_bytes for one in kept)
        limit = self._max_bytes
        if size_bytes + needed_bytes > limit:
            limit = max(int(limit * (1 - _FREE_SHARE)), needed_bytes)
        oldest_time = _time_text(now_s - self._max_age_s)
        for one in kept:
            if one.stem[:_DIGITS] >= oldest_time and size_bytes + needed_bytes <= limit:
                break
            (one.dataset / IMAGES / f"{one.stem}.jpg").unlink(missing_ok=True)  # first, so an image always has labels
            (one.dataset / LABELS / f"{one.stem}.txt").unlink(missing_ok=True)
            size_bytes -= one.size_bytes
        state.size_bytes, state.swept_at_s = size_bytes, now_s

    def _find_kept(self) -> list[_Kept]:
        """Return all images, the oldest first. Delete labels without an image, and partly written files.

        The folder is locked, so no other process is writing them.
        """
        kept = []
        for images in self._folder.glob(f"*/{IMAGES}"):
            dataset = images.parent
            labels = _own_files(dataset / LABELS, ".txt")
            for stem, size_bytes in _own_files(images, ".jpg").items():
                kept.append(_Kept(stem, dataset, _space(size_bytes) + _space(labels.pop(stem, 0))))
            for stem in labels:
                (dataset / LABELS / f"{stem}.txt").unlink(missing_ok=True)
        return sorted(kept)


def _own_files(folder: Path, suffix: str) -> dict[str, int]:
    """Return the size of each of our files by its stem. Delete the partly written files of killed processes."""
    sizes = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, found, rest = entry.name.rpartition(suffix)
                if not found or not _STEM.fullmatch(stem):
                    continue
                if rest == "":
                    sizes[stem] = entry.stat(follow_symlinks=False).st_size
                elif rest == PART_SUFFIX:
                    os.unlink(entry.path)
    # The process that created the dataset was killed before it created this folder, or it is a file of another program.
    except (FileNotFoundError, NotADirectoryError):
        pass
    return sizes


def _stem(now_s: float, reason: Reason, source: str) -> str:
    return f"{_time_text(now_s)}-{reason}-{source}-{uuid4().hex[:8]}"


def _time_text(at_s: float) -> str:
    at_s = max(at_s, 0.0)
    microseconds = min(int(at_s % 1 * 1e6), 999_999)
    return f"{datetime.fromtimestamp(int(at_s), UTC):{_TIME_FORMAT}}{microseconds:06d}Z"


def _space(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _read_state(path: Path) -> _State | None:
    """Return the saved state, or None if there is none, or if it is damaged."""
    try:
        text = path.read_bytes()
        return _State.model_validate_json(text) if text else None
    except (FileNotFoundError, ValidationError):
        return None


def _write_state(descriptor: int, state: _State) -> None:
    os.pwrite(descriptor, state.model_dump_json().encode().ljust(_STATE_BYTES), 0)
