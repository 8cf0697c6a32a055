"""Clips and snapshots of what is seen in a stream, with its boxes drawn."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np

from serve_app.images.drawing import draw, encode_jpeg
from serve_app.schemas.streams import ClipNotice, Recording, RecordingStatus
from serve_app.types import Detections, Pixels

logger = logging.getLogger(__name__)

_MAX_WAITING = 8  # frames, each with its pixels
_LATE_S = 2.0  # a frame may come so much later than a clip ends
_MAX_SIDE_PX = 1280  # of a clip
_TIME_BASE = Fraction(1, 90_000)
_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}Z\.(mp4|mp4\.part|jpg)")
_PART = ".part"
# In fragments, so that what a killed process leaves can be played up to there.
_OPTIONS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
_CODEC_OPTIONS = {"preset": "veryfast", "tune": "zerolatency", "crf": "26", "g": "10"}  # a fragment every ten frames


@dataclass(frozen=True)
class _Shown:
    """A frame, and what was found in it."""

    pixels: Pixels
    detections: Detections
    captured_at_s: float


class Recorder:
    """Records one stream, in a thread of its own: whoever puts a frame there never waits.

    ``on_clip`` is called by that thread. A disk that takes nothing costs frames, which are counted, and no more.
    """

    def __init__(self, spec: Recording, folder: Path, *, on_clip: Callable[[ClipNotice], None]) -> None:
        self._spec = spec
        self._folder = folder
        self._on_clip = on_clip
        self._waiting: queue.Queue[_Shown | None] = queue.Queue(_MAX_WAITING)
        self._due_s = 0.0  # of the next frame that max_fps lets through
        self._dropped: Counter[str] = Counter()
        self._before: deque[tuple[float, bytes]] = deque()  # when, and a JPEG: the pre-roll
        self._open: _OpenClip | None = None
        self._clips = 0
        self._detail = ""
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def put(self, pixels: Pixels, detections: Detections, captured_at_s: float) -> None:
        """A frame, whose pixels nobody changes. Returns at once."""
        if 0 < self._due_s - captured_at_s < 1:  # more, and the wall clock was set back
            return
        self._due_s = captured_at_s + 0.95 / self._spec.max_fps
        try:
            self._waiting.put_nowait(_Shown(pixels, detections, captured_at_s))
        except queue.Full:
            self._dropped["queue_full"] += 1

    def status(self) -> RecordingStatus:
        """What it has done, and what is wrong now."""
        return RecordingStatus(
            is_recording=self._open is not None,
            clips=self._clips,
            dropped=dict(self._dropped),
            detail=self._detail,
        )

    def close(self, within_s: float) -> None:
        """Records what waits, and finishes the clip. Blocks."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=within_s)
        self._thread.join(within_s)

    def _run(self) -> None:
        self._adopt_parts()
        while (shown := self._next()) is not None:
            self._try(lambda shown=shown: self._take(shown))  # type: ignore[misc]
        self._try(self._finish)

    def _next(self) -> _Shown | None:
        """A clip does not wait for a camera that is away."""
        while True:
            try:
                return self._waiting.get(timeout=self._spec.post_roll_s + _LATE_S if self._open else None)
            except queue.Empty:
                self._try(self._finish)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
            self._detail = ""
        except (OSError, av.FFmpegError, cv2.error) as exc:
            self._dropped["unwritable"] += 1 + (self._open.frames if self._open else 0)
            detail = f"it cannot be written: {getattr(exc, 'strerror', None) or type(exc).__name__}"
            if not self._detail:
                logger.warning("recording of %s: %s", self._folder.name, detail)
            self._detail = detail
            if self._open:
                self._open.abandon()
                self._open = None

    def _take(self, shown: _Shown) -> None:
        seen = {label for label in shown.detections.labels or () if not self._spec.labels or label in self._spec.labels}
        small = _drawn(shown)
        while self._before and not 0 <= shown.captured_at_s - self._before[0][0] <= self._spec.pre_roll_s:
            self._before.popleft()
        if self._open and (self._open.is_over(shown.captured_at_s, self._spec) or not self._open.fits(small)):
            self._finish()
        if self._open is None and seen:
            self._start(shown, small, seen)
        if self._open:
            self._open.add(small, shown.captured_at_s, seen)
        else:
            self._before.append((shown.captured_at_s, encode_jpeg(small)))

    def _start(self, shown: _Shown, small: Pixels, seen: set[str]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)  # but not the one above it, which may have to be mounted
        name = datetime.fromtimestamp(shown.captured_at_s, UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")[:-3] + "Z"
        snapshot = self._folder / f"{name}.jpg"
        _write(snapshot, encode_jpeg(draw(shown.pixels.copy(), shown.detections)))
        try:
            self._open = _OpenClip(self._folder / f"{name}.mp4", snapshot, small.shape, shown.captured_at_s)
        except BaseException:
            snapshot.unlink(missing_ok=True)
            raise
        for at_s, jpeg in self._before:
            picture: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            if self._open.fits(picture):
                self._open.add(picture, at_s, set())
        self._before.clear()
        self._on_clip(self._open.notice("started", seen))

    def _finish(self) -> None:
        if self._open is not None:
            clip, self._open = self._open, None
            clip.close()
            self._clips += 1
            self._remove_oldest()
            self._on_clip(clip.notice("finished"))

    def _remove_oldest(self) -> None:
        clips = sorted(path for path in self._folder.glob("*.mp4") if _NAME.fullmatch(path.name))
        for clip in clips[: -self._spec.keep]:
            clip.unlink(missing_ok=True)
            clip.with_suffix(".jpg").unlink(missing_ok=True)

    def _adopt_parts(self) -> None:
        """What a process left that was killed can be played."""
        with suppress(OSError):
            for part in self._folder.glob(f"*{_PART}"):
                if _NAME.fullmatch(part.name):
                    part.rename(part.with_suffix(""))


class _OpenClip:
    """An MP4 that is being written."""

    def __init__(self, path: Path, snapshot: Path, shape: tuple[int, ...], triggered_at_s: float) -> None:
        self._path = path
        self._part = path.with_name(path.name + _PART)
        self._snapshot = snapshot
        self._shape = shape
        self._triggered_at_s = self._seen_at_s = triggered_at_s
        self._labels: set[str] = set()
        self._began_at_s: float | None = None
        self._last_pts = -1
        self.frames = 0
        _write(self._part, b"")
        try:
            container: Any = av.open(str(self._part), "w", format="mp4", options=_OPTIONS)
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        container.flags |= av.container.Flags.flush_packets.value
        self._container = container
        self._stream: Any = self._container.add_stream("libx264", options=_CODEC_OPTIONS)
        self._stream.height, self._stream.width = shape[:2]
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = _TIME_BASE
        self._stream.thread_count = 1

    def fits(self, picture: Pixels) -> bool:
        """It is as large as the others."""
        return picture.shape == self._shape

    def is_over(self, at_s: float, spec: Recording) -> bool:
        """A frame of this time is not in it."""
        return at_s - self._seen_at_s > spec.post_roll_s or at_s - self._triggered_at_s > spec.max_clip_s

    def add(self, picture: Pixels, at_s: float, seen: set[str]) -> None:
        """A frame, and what of interest is in it."""
        if self._began_at_s is None:
            self._began_at_s = at_s
        if seen:
            self._labels |= seen
            self._seen_at_s = at_s
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        # Later than the last one, even where the wall clock was set back.
        self._last_pts = frame.pts = max(self._last_pts + 1, round((at_s - self._began_at_s) / _TIME_BASE))
        frame.time_base = _TIME_BASE
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def notice(self, change: Literal["started", "finished"], labels: Collection[str] = ()) -> ClipNotice:
        """What is said of it."""
        return ClipNotice(
            change=change,
            clip=self._path.name,
            snapshot=self._snapshot.name,
            labels=sorted(self._labels | set(labels)),
            began_at_s=self._began_at_s or self._triggered_at_s,
            duration_s=round(float(self._last_pts * _TIME_BASE), 3) if change == "finished" else None,
        )

    def close(self) -> None:
        """It is whole."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._part.rename(self._path)

    def abandon(self) -> None:
        """Nothing is left of it."""
        with suppress(OSError, av.FFmpegError):
            self._container.close()
        for path in (self._part, self._snapshot):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _drawn(shown: _Shown) -> Pixels:
    """With its boxes, small enough for a clip, and of even sides, as H.264 wants them."""
    height, width = shown.pixels.shape[:2]
    scale = min(1.0, _MAX_SIDE_PX / max(height, width))
    size = max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2)
    small: Pixels = cv2.resize(shown.pixels, size, interpolation=cv2.INTER_AREA)
    factors = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    return draw(small, replace(shown.detections, xyxy=shown.detections.xyxy * factors))


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
    except OSError:
        path.unlink(missing_ok=True)  # a full disk is not filled with halves
        raise
