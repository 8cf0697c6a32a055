"""The reloader of the API-key file, which picks up changes without a restart."""

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
    """The current API keys. While the file is missing or invalid, the previous keys stay in use."""

    def __init__(self, file: KeyFile, metrics: Metrics) -> None:
        """Start with the keys of ``file``."""
        self._file = file
        self._metrics = metrics
        self.on_change: Callable[[], None] = lambda: None  # called after the keys have changed
        self._thread = ThreadPoolExecutor(1, "keys")  # asyncio's own pool may be busy, and a revocation must not wait
        self._poll_at_s = 0.0
        self._problem = ""  # the last error, which is not logged a second time

    @property
    def keys(self) -> Sequence[Key]:
        """The keys from the last successful read of the file."""
        return self._file.keys

    async def refresh(self) -> None:
        """Reload the file if it has changed. Check for changes at most once per ``_POLL_INTERVAL_S``."""
        if time.monotonic() < self._poll_at_s:
            return
        self._poll_at_s = math.inf  # so that other requests do not start another check
        try:
            if await asyncio.get_running_loop().run_in_executor(self._thread, self._file.refresh):
                logger.info("access.keys_file: reloaded %d API keys", len(self.keys))
                self.on_change()
            self._problem = ""
        except ConfigError as exc:
            self._metrics.keys_reload_failed()
            if exc.detail != self._problem:
                logger.error("%s; the previous API keys stay in use", exc.detail)
            self._problem = exc.detail
        finally:
            self._poll_at_s = time.monotonic() + _POLL_INTERVAL_S
