"""The capture thread, which moves frames from the source to the mailbox."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import Policy
from serve_app.streams.capture.mailbox import FrameMailbox
from serve_app.streams.capture.reconnect import ReconnectingSource
from serve_app.streams.progress import Progress
from serve_app.types import Frame, Pixels, Position
from serve_app.video.decoding import Decoding
from serve_app.video.pictures import NotYetDecoded, Skipped, Video
from serve_app.video.source import Source
from serve_app.video.timestamps import Timestamps

# A key frame that is early by this share of the interval between the frames that can be taken is taken, if only key
# frames are decoded, because the next one may come much later.
_MAX_EARLY = 0.25


class Capture:
    """Reads a source until it ends or ``stop`` is called. ``ReconnectingSource`` reopens a live source that fails."""

    def __init__(
        self,
        source: Source,
        progress: Progress,
        *,
        policy: Policy,
        max_pixels: int,
        loop: bool = False,
        max_fps: float | None = None,
        after: Position | None = None,
        stream_time_s: float = 0.0,
        hwaccel: str | None = None,
        guard: AddressGuard | None = None,
    ) -> None:
        """Prepare the capture without starting it.

        A file or folder starts at the first frame after the position ``after``. The stream's own clock starts at
        ``stream_time_s``. ``hwaccel`` names the hardware decoder, and ``guard`` is explained in
        ``open_video``.
        """
        self._progress = progress
        progress.decoding = Decoding(hwaccel, max_fps)
        self._policy = policy
        self._is_live = source.is_live
        self._max_fps = max_fps
        self._mailbox = FrameMailbox()
        self._error: Exception | None = None  # the unexpected error that ended the thread
        self._stopped = threading.Event()
        self._source = ReconnectingSource(
            source,
            progress,
            self._stopped,
            max_pixels=max_pixels,
            loop=loop,
            after=after,
            decoding=progress.decoding,
            guard=guard,
        )
        self._started_at_s = time.monotonic() - stream_time_s
        self._stream_time_s = stream_time_s  # the newest frame's time on the stream's own clock
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Start the capture thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the capture once the current read ends."""
        self._stopped.set()
        self._mailbox.close()

    async def take(self) -> Frame | None:
        """Wait for the next frame and return it. Return None at the end.

        Raise the error that ended the thread, if any.
        """
        frame = await self._mailbox.take()
        if frame is None and self._error is not None:
            raise self._error
        return frame

    def _run(self) -> None:
        try:
            self._source.read_until_the_end(self._read)
        except Exception as exc:  # ``take`` raises this error; otherwise the stream would hang unnoticed
            self._error = exc
        finally:
            self._mailbox.close()

    def _read(self, video: Video) -> None:
        in_real_time = video.comes_in_bursts and self._policy == "drop_oldest"
        pull_interval_s = video.pull_interval_s
        interval_s = 1 / self._max_fps if self._max_fps else (pull_interval_s or 0.0)
        opened_at_s = time.monotonic()
        # The time on the stream's own clock at which the source was opened.
        opened_at_stream_s = opened_at_s - self._started_at_s if self._is_live else self._stream_time_s
        stamps = Timestamps(video.fps, is_recorded=video.has_end and pull_interval_s is None)
        due_s = 0.0  # the elapsed time at which the next frame is due
        candidate_s = 0.0  # the elapsed time of the last frame that could be taken
        pictures = iter(video)
        while not self._stopped.is_set():
            if pull_interval_s is not None and self._stopped.wait(max(0.0, opened_at_s + due_s - time.monotonic())):
                return
            self._progress.read_started()
            picture = next(pictures, None)
            self._progress.read_ended()
            if picture is None:
                return
            pixels, position = picture
            elapsed_s = stamps.elapsed_s(position.timestamp_s)
            if in_real_time and self._stopped.wait(max(0.0, opened_at_s + elapsed_s - time.monotonic())):
                return
            self._stream_time_s = max(self._stream_time_s, opened_at_stream_s + elapsed_s)
            early_s = 1e-3
            if isinstance(pixels, NotYetDecoded):
                early_s = max(early_s, _MAX_EARLY * min(interval_s, elapsed_s - candidate_s))
            taken = None
            if not isinstance(pixels, Skipped):
                candidate_s = elapsed_s
                taken = _decoded(pixels) if elapsed_s >= due_s - early_s else None
            frame_id = self._progress.frame_captured()
            if taken is None:
                self._progress.drop("max_fps", frame_id)
                continue
            frame = Frame(frame_id, time.time(), self._stream_time_s, position, taken)
            if interval_s:  # the times that are due stay the same, so early frames do not increase the rate
                due_s += interval_s * max(1, math.floor((elapsed_s - due_s) / interval_s) + 1)
            unused = self._mailbox.put(frame, wait=self._policy == "wait")
            if unused is None:
                continue
            if not self._stopped.is_set():
                self._progress.drop("newer_frame", unused.frame_id)
            elif self._is_live:
                # A frame of a file does not count as dropped, because it is read again when the stream continues.
                self._progress.drop("stopped", unused.frame_id)


def _decoded(pixels: Callable[[], Pixels]) -> Callable[[], Pixels] | None:
    """Return the function that returns a frame's pixels, or None if the frame cannot be decoded."""
    return pixels.decode() if isinstance(pixels, NotYetDecoded) else pixels
