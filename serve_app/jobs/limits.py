"""The limits of a runner: how many images are in flight, and how many bytes of images are in memory.

The bytes are those of encoded images, and of decoded frames of clips.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_SHORT_QUEUE_S = 0.05  # if images wait for less than this time in the Detector, it has time for more


class _Turns:
    """A limit of what may be in use at the same time. Callers get their turns in the order of arrival."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def enter(self, count: int) -> None:
        """Wait until ``count`` more may be in use."""
        if not self._waiting and self.used + count <= self.limit:
            self.used += count
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, count))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # ``wake`` may have removed it already
                    self._waiting.remove((turn, count))
            else:  # the turn came together with the cancellation
                self.used -= count
            self.wake()
            raise

    def leave(self, count: int) -> None:
        """Note that ``count`` are no longer in use."""
        self.used -= count
        self.wake()

    def wake(self) -> None:
        """Give their turn to those who may have it now."""
        while self._waiting:
            turn, count = self._waiting[0]
            if not turn.cancelled():
                if self.used + count > self.limit:
                    return
                self.used += count
                turn.set_result(None)
            self._waiting.popleft()


class Window:
    """The number of images that one model's Detectors get from this runner at the same time.

    It grows while the Detectors answer at once, and halves when one of them refuses an image. All units of the runner
    share it.
    """

    def __init__(self, start: int, limit: int) -> None:
        """Set the number with which the window starts, and its largest number."""
        self._turns = _Turns(min(start, limit))
        self._limit = limit
        self._fast = 0  # fast answers since the window has changed
        self._halvings = 0

    @property
    def size(self) -> int:
        """How many images may be in flight now."""
        return self._turns.limit

    @property
    def in_flight(self) -> int:
        """How many images are in flight."""
        return self._turns.used

    @asynccontextmanager
    async def place(self) -> AsyncIterator[InFlight]:
        """Wait until one more image may be in flight, and count it for the duration of a ``with`` block."""
        await self._turns.enter(1)
        try:
            yield InFlight(self, self._halvings)
        finally:
            self._turns.leave(1)

    def _answered(self, queue_s: float) -> None:
        self._fast = self._fast + 1 if queue_s < _SHORT_QUEUE_S else 0
        if self._fast >= self.size and self.size < self._limit:
            self._fast = 0
            self._turns.limit += 1
            self._turns.wake()

    def _refused(self, halvings: int) -> int:
        if halvings == self._halvings:
            self._halvings += 1
            self._fast = 0
            self._turns.limit = max(1, self.size // 2)
        return self._halvings


class InFlight:
    """One image in flight."""

    def __init__(self, window: Window, halvings: int) -> None:
        self._window = window
        self._halvings = halvings  # of the window when the image was sent

    def answered(self, queue_s: float) -> None:
        """Note that the image waited for ``queue_s`` in a Detector.

        The window grows by one after as many short waits in a row as it has places.
        """
        self._window._answered(queue_s)

    def refused(self) -> None:
        """Note that a Detector's queue was full.

        A full queue refuses many images at once, so the images that were sent before the window was halved do not halve
        it again.
        """
        self._halvings = self._window._refused(self._halvings)


class ByteBudget:
    """The number of bytes that all units of a runner may have in memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._turns = _Turns(limit_bytes)

    @property
    def used_bytes(self) -> int:
        """How many bytes are held now."""
        return self._turns.used

    @asynccontextmanager
    async def hold(self, count_bytes: int) -> AsyncIterator[Held]:
        """Wait for space for this many bytes, and hold it for the duration of a ``with`` block.

        More than the whole budget counts as the whole budget.
        """
        held = Held(self._turns, min(count_bytes, self._turns.limit))
        await self._turns.enter(held.count_bytes)
        try:
            yield held
        finally:
            self._turns.leave(held.count_bytes)


class Held:
    """Some bytes of a budget."""

    def __init__(self, turns: _Turns, count_bytes: int) -> None:
        self._turns = turns
        self.count_bytes = count_bytes

    def add(self, count_bytes: int) -> None:
        """Hold more bytes, at once. The budget may be exceeded, and then others wait until it is not.

        Waiting here could be a deadlock, because all callers already hold a part of the budget.
        """
        self._turns.used += count_bytes
        self.count_bytes += count_bytes

    def shrink(self, count_bytes: int) -> None:
        """Return the bytes that are not needed, when the true number is known."""
        if count_bytes < self.count_bytes:
            self._turns.leave(self.count_bytes - count_bytes)
            self.count_bytes = count_bytes
