"""Room for one frame, between two threads."""

from __future__ import annotations

import asyncio
import threading

from serve_app.types import Frame


class FrameMailbox:
    """Room for one frame, between the capture thread and the loop that detects.

    When it is full, a put waits or replaces what is there.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived = asyncio.Event()

    def put(self, frame: Frame, *, wait: bool) -> Frame | None:
        """Leave a frame; returns the one that will not be taken: the replaced one, or this one after ``close``."""
        with self._changed:
            while wait and self._frame is not None and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return frame
            replaced, self._frame = self._frame, frame
            self._tell()
            return replaced

    async def take(self) -> Frame | None:
        """The frame that waits, as soon as there is one; None once closed and empty."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._arrived.clear()
            with self._changed:
                if self._frame is not None:
                    taken, self._frame = self._frame, None
                    self._changed.notify_all()
                    return taken
                if self._is_closed:
                    return None
            await self._arrived.wait()

    def close(self) -> None:
        """Nothing more comes. What waits may still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._tell()

    def _tell(self) -> None:
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._arrived.set)
            except RuntimeError:
                pass  # the loop has ended: nobody takes any more
