"""Reopening of sources that fail or end."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from serve_app.errors import SourceDenied, SourceError, SourceGone, SourceStalled, SourceTooLarge, SourceUntrusted
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import State
from serve_app.streams.progress import Progress
from serve_app.types import Position
from serve_app.video.decoding import Decoding
from serve_app.video.pictures import Video
from serve_app.video.source import Source
from serve_app.video.video import open_video

_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 1.5  # short enough to read a source again within 2 s of its return
_FAILED_RETRY_S = 60.0  # long, because some cameras lock out clients that log in too often


class ReconnectingSource:
    """Opens a source, and reopens a live source indefinitely, with back-off. It blocks, so run it in its own thread."""

    def __init__(
        self,
        source: Source,
        progress: Progress,
        stopped: threading.Event,
        *,
        max_pixels: int,
        loop: bool,
        after: Position | None,
        decoding: Decoding,
        guard: AddressGuard | None,
    ) -> None:
        """Prepare the source. ``loop`` restarts a file when it ends.

        A file or folder starts at the first frame after the position ``after``.
        """
        self._source = source
        self._progress = progress
        self._stopped = stopped
        self._max_pixels = max_pixels
        self._loop = loop
        self._after = None if source.is_live else after
        self._decoding = decoding
        self._guard = guard

    def read_until_the_end(self, read: Callable[[Video], None]) -> None:
        """Open the source and call ``read`` with it. Repeat this after each failure.

        This method returns when a file or folder has ended or cannot be read, or when ``stopped`` is set.
        """
        failures = 0
        while not self._stopped.is_set():
            captured = self._progress.captured
            pause_s: float | None = None
            try:
                with open_video(
                    self._source,
                    max_pixels=self._max_pixels,
                    after=self._after,
                    decoding=self._decoding,
                    guard=self._guard,
                ) as video:
                    self._progress.source_opened(video.fps, video.passed_over)
                    self._after = None
                    read(video)
                if video.has_end:
                    if self._loop:
                        continue
                    return
                self._progress.set_source_state("reconnecting", f"{self._source.name} ended")
            except SourceError as exc:
                if self._needs_operator(exc):
                    self._progress.set_source_state("failed", exc.detail)
                    if not self._source.is_live:
                        return
                    pause_s = _FAILED_RETRY_S
                else:
                    state: State = "stalled" if isinstance(exc, SourceStalled) else "reconnecting"
                    self._progress.set_source_state(state, exc.detail)
            finally:
                self._progress.read_ended()
            failures = 0 if self._progress.captured > captured else failures + 1
            self._progress.reconnects += 1
            self._stopped.wait(_backoff_s(failures) if pause_s is None else pause_s)

    def _needs_operator(self, error: SourceError) -> bool:
        """Return whether only an operator can fix an error. In that case, an early retry is useless.

        If a camera that has worked before sends no valid video, it may be restarting and does not need an operator.
        """
        if not self._source.is_live or isinstance(error, SourceDenied | SourceUntrusted | SourceTooLarge):
            return True
        return not isinstance(error, SourceGone) and not self._progress.captured


def _backoff_s(failures: int) -> float:
    """Return the pause after ``failures`` failures in a row. It doubles with each failure, up to a limit."""
    # The jitter spreads the attempts when many cameras are lost at once, for example behind one switch.
    return min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(failures, 16)) * random.uniform(0.5, 1)
