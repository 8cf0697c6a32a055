"""A buffer that hands one frame at a time from one thread to another."""

from __future__ import annotations

import asyncio
import threading

from serve_app.types import Frame


class FrameMailbox:
    """A buffer for one frame, between the capture thread and the detection loop.

    If the buffer is full, ``put`` either waits or replaces the buffered frame.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived = asyncio.Event()

    def put(self, frame: Frame, *, wait: bool) -> Frame | None:
        """Put a frame into the buffer, and return the frame that was replaced, if any.

        After ``close``, do nothing and return ``frame`` itself.
        """
        with self._changed:
            while wait and self._frame is not None and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return frame
            replaced, self._frame = self._frame, frame
            self._notify_loop()
            return replaced

    async def take(self) -> Frame | None:
        """Wait for a frame and return it. Return None once the mailbox is closed and empty."""
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
        """Accept no more frames. A frame that is already in the buffer can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._notify_loop()

    def _notify_loop(self) -> None:
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._arrived.set)
            except RuntimeError:
                pass  # the event loop is closed, so no more frames will be taken
