"""Recording of clips and snapshots while objects are detected in a stream.

Clips and snapshots show the boxes of the objects.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np

from serve_app.detections import Detections
from serve_app.images.drawing import draw, encode_jpeg
from serve_app.schemas.recording import ClipNotice, RecordingStatus
from serve_app.schemas.streams import Recording
from serve_app.streams.outputs.pace import Pace
from serve_app.streams.outputs.recordings import CLIP, PART, SNAPSHOT, is_recording, name_at
from serve_app.streams.outputs.small_frames import draw_small
from serve_app.types import Pixels

logger = logging.getLogger(__name__)

_MAX_WAITING = 8  # few frames, because each holds its pixels in memory
_LATE_FRAME_S = 2.0  # how much longer than post_roll_s we wait for a clip's next frame
_TIME_BASE = Fraction(1, 90_000)
# A fragmented MP4 can be played up to its last fragment even if the process that wrote it was killed.
_OPTIONS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
_CODEC_OPTIONS = {"preset": "veryfast", "tune": "zerolatency", "crf": "26", "g": "10"}  # g: one fragment per ten frames


@dataclass(frozen=True)
class _DetectedFrame:
    """A frame and the objects detected in it."""

    pixels: Pixels
    detections: Detections
    captured_at_s: float


class Recorder:
    """Records one stream in its own thread, so that adding a frame never blocks.

    ``on_clip`` is called in that thread. If the disk cannot be written, the recorder counts the frames as dropped, and
    the stream continues.
    """

    def __init__(self, spec: Recording, folder: Path, *, on_clip: Callable[[ClipNotice], None]) -> None:
        self._spec = spec
        self._folder = folder
        self._on_clip = on_clip
        self._waiting: queue.Queue[_DetectedFrame | None] = queue.Queue(_MAX_WAITING)
        self._pace = Pace(spec.max_fps)
        self._dropped: Counter[str] = Counter()
        self._pre_roll: deque[tuple[float, bytes]] = deque()  # the capture times and JPEGs of frames before a clip
        self._open_clip: _OpenClip | None = None
        self._clips = 0
        self._detail = ""
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def put(self, pixels: Pixels, detections: Detections, captured_at_s: float) -> None:
        """Queue a frame without waiting. The caller must not change the pixels afterwards."""
        if self._pace.comes_too_soon(captured_at_s):
            return
        try:
            self._waiting.put_nowait(_DetectedFrame(pixels, detections, captured_at_s))
        except queue.Full:
            self._dropped["queue_full"] += 1

    def status(self) -> RecordingStatus:
        """Return the recorder's counters and its current problem, if any."""
        return RecordingStatus(
            is_recording=self._open_clip is not None,
            clips=self._clips,
            dropped=dict(self._dropped),
            detail=self._detail,
        )

    def close(self, timeout_s: float) -> None:
        """Record the queued frames and finish the open clip. This blocks for up to twice ``timeout_s``."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        self._finish_leftover_clips()
        while (frame := self._next()) is not None:
            self._try(lambda frame=frame: self._take(frame))  # type: ignore[misc]
        self._try(self._finish)

    def _next(self) -> _DetectedFrame | None:
        """Wait for the next frame and return it. Return None at the end.

        Finish the open clip if no frame arrives before the clip must end.
        """
        while True:
            try:
                return self._waiting.get(timeout=self._spec.post_roll_s + _LATE_FRAME_S if self._open_clip else None)
            except queue.Empty:
                self._try(self._finish)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
            self._detail = ""
        except (OSError, av.FFmpegError, cv2.error) as exc:
            self._dropped["unwritable"] += 1 + (self._open_clip.frames if self._open_clip else 0)
            detail = f"the recording cannot be written: {getattr(exc, 'strerror', None) or type(exc).__name__}"
            if not self._detail:
                logger.warning("stream %s: %s", self._folder.name, detail)
            self._detail = detail
            if self._open_clip:
                self._open_clip.abandon()
                self._open_clip = None

    def _take(self, frame: _DetectedFrame) -> None:
        wanted, found = self._spec.labels, frame.detections
        # The class of a whole image starts a clip only if it is named, because every image has a class.
        seen = set(found.counted_labels).intersection(wanted) if wanted else set(found.labels or ())
        small = draw_small(frame.pixels, frame.detections)
        while self._pre_roll and not 0 <= frame.captured_at_s - self._pre_roll[0][0] <= self._spec.pre_roll_s:
            self._pre_roll.popleft()
        if self._open_clip and (
            self._open_clip.ends_before(frame.captured_at_s, self._spec) or not self._open_clip.fits(small)
        ):
            self._finish()
        if self._open_clip is None and seen:
            self._start(frame, small, seen)
        if self._open_clip:
            self._open_clip.add(small, frame.captured_at_s, seen)
        else:
            self._pre_roll.append((frame.captured_at_s, encode_jpeg(small)))

    def _start(self, frame: _DetectedFrame, small: Pixels, seen: set[str]) -> None:
        # We do not create the parent folder, because a missing folder may be the mount point of a volume.
        self._folder.mkdir(mode=0o700, exist_ok=True)
        name = name_at(frame.captured_at_s)
        snapshot = self._folder / f"{name}{SNAPSHOT}"
        _write(snapshot, encode_jpeg(draw(frame.pixels.copy(), frame.detections)))
        try:
            self._open_clip = _OpenClip(self._folder / f"{name}{CLIP}", snapshot, small.shape, frame.captured_at_s)
        except BaseException:
            snapshot.unlink(missing_ok=True)
            raise
        for at_s, jpeg in self._pre_roll:
            picture: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            if self._open_clip.fits(picture):
                self._open_clip.add(picture, at_s, set())
        self._pre_roll.clear()
        self._on_clip(self._open_clip.notice("started", seen))

    def _finish(self) -> None:
        if self._open_clip is not None:
            clip = self._open_clip
            clip.close()  # if this fails, the clip is abandoned
            self._open_clip = None
            self._clips += 1
            self._remove_oldest()
            self._on_clip(clip.notice("finished"))

    def _remove_oldest(self) -> None:
        clips = sorted(path for path in self._folder.glob(f"*{CLIP}") if is_recording(path.name))
        for clip in clips[: -self._spec.keep]:
            clip.unlink(missing_ok=True)
            clip.with_suffix(SNAPSHOT).unlink(missing_ok=True)

    def _finish_leftover_clips(self) -> None:
        """Give the unfinished clips of a killed process their final names, because these clips can be played."""
        with suppress(OSError):
            for part in self._folder.glob(f"*{PART}"):
                if is_recording(part.name):
                    part.rename(part.with_suffix(""))


class _OpenClip:
    """A clip that is being recorded to an MP4 file."""

    def __init__(self, path: Path, snapshot: Path, shape: tuple[int, ...], triggered_at_s: float) -> None:
        self._path = path
        self._part = path.with_name(path.name + PART)
        self._snapshot = snapshot
        self._shape = shape
        self._triggered_at_s = self._seen_at_s = triggered_at_s
        self._labels: set[str] = set()
        self._started_at_s: float | None = None
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
        """Return whether an image has the same size as the clip's frames."""
        return picture.shape == self._shape

    def ends_before(self, at_s: float, spec: Recording) -> bool:
        """Return whether a frame that was captured at ``at_s`` is too late for this clip."""
        return at_s - self._seen_at_s > spec.post_roll_s or at_s - self._triggered_at_s > spec.max_clip_s

    def add(self, picture: Pixels, at_s: float, seen: set[str]) -> None:
        """Append a frame. ``seen`` contains the frame's labels that keep the clip open."""
        if self._started_at_s is None:
            self._started_at_s = at_s
        if seen:
            self._labels |= seen
            self._seen_at_s = at_s
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        # Timestamps must increase, even if the wall clock was set back.
        self._last_pts = frame.pts = max(self._last_pts + 1, round((at_s - self._started_at_s) / _TIME_BASE))
        frame.time_base = _TIME_BASE
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def notice(self, change: Literal["started", "finished"], labels: Collection[str] = ()) -> ClipNotice:
        """Return the event that announces the clip's start or end."""
        return ClipNotice(
            change=change,
            clip=self._path.name,
            snapshot=self._snapshot.name,
            labels=sorted(self._labels | set(labels)),
            began_at_s=self._started_at_s or self._triggered_at_s,
            duration_s=round(float(self._last_pts * _TIME_BASE), 3) if change == "finished" else None,
        )

    def close(self) -> None:
        """Write the remaining frames and give the file its final name."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._part.rename(self._path)

    def abandon(self) -> None:
        """Delete the clip and its snapshot."""
        with suppress(OSError, av.FFmpegError):
            self._container.close()
        for path in (self._part, self._snapshot):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
    except OSError:
        path.unlink(missing_ok=True)  # the disk may be full, so keep no partial file
        raise
