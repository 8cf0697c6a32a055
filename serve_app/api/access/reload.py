"""Read the keys' file again when it changes, without a restart."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from serve_app.api.access.keys import Key, KeyFile
from serve_app.api.backend import Metrics
from serve_app.errors import ConfigError

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 1.0


class KeyReloader:
    """Holds the keys of a file, and keeps the old ones while the file is missing or broken."""

    def __init__(self, file: KeyFile, metrics: Metrics, on_change: Callable[[], None]) -> None:
        """``on_change`` is called after the keys have changed."""
        self._file = file
        self._metrics = metrics
        self._on_change = on_change
        self._thread = ThreadPoolExecutor(1, "keys")  # its own: a revocation waits for no busy pool
        self._poll_at_s = 0.0
        self._problem = ""  # that the file has

    @property
    def keys(self) -> Sequence[Key]:
        """The keys as they were when the file was last read without a fault."""
        return self._file.keys

    async def refresh(self) -> None:
        """Look whether the file has changed, at most once in ``_POLL_INTERVAL_S``."""
        if time.monotonic() < self._poll_at_s:
            return
        self._poll_at_s = math.inf  # other requests use the present keys meanwhile
        try:
            if await asyncio.get_running_loop().run_in_executor(self._thread, self._file.refresh):
                logger.info("the keys' file was read again: %d keys", len(self.keys))
                self._on_change()
            self._problem = ""
        except ConfigError as exc:
            self._metrics.keys_unreadable()
            if exc.detail != self._problem:
                logger.error("%s; the keys stay as they were", exc.detail)
            self._problem = exc.detail
        finally:
            self._poll_at_s = time.monotonic() + _POLL_INTERVAL_S
