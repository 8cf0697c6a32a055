"""The reports of one process to the drift monitor. A report that fails is repeated until it is delivered."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

from serve_app.drift.notices import Notice
from serve_app.drift.tally import Report, Tally
from serve_app.errors import ServeAppError
from serve_app.types import Answer, Letterbox, ModelInfo, Pixels, Traffic

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 5.0
_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 2.0  # short, because a process that stops must not wait for a monitor that stops, too

Send = Callable[[Report], Awaitable[list[Notice]]]


class Reporter:
    """Tallies what one process sees, and reports it every few seconds. Use it from one event loop only.

    Nothing that fails here affects the image: an image that cannot be measured is only logged, and while the monitor
    does not answer, at most one report waits, and the tally collects the rest.
    """

    def __init__(
        self,
        tally: Tally,
        send: Send,
        *,
        on_notice: Callable[[Notice], None] = lambda _: None,
        interval_s: float = REPORT_INTERVAL_S,
    ) -> None:
        """Prepare to report with ``send``. ``on_notice`` is called for each notice with which the monitor answers."""
        self._tally = tally
        self._send = send
        self._on_notice = on_notice
        self._interval_s = interval_s
        self._name = secrets.token_hex(8)
        self._number = 0
        self._waiting: Report | None = None  # has not been delivered, or the monitor's answer was lost
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False

    def observe(
        self,
        name: str,
        model: ModelInfo,
        traffic: Traffic,
        tenant: str,
        frame: Pixels,
        fitted: Letterbox,
        answer: Answer,
    ) -> None:
        """Add an answered image to the tally. ``name`` is the model's name in requests. See ``Tally.add``."""
        try:
            self._tally.add(name, model.version, traffic, tenant, frame, fitted, answer)
        except Exception:  # a bug of ours must not cost a client its answer
            if not self._is_failing:
                logger.exception("an image could not be measured for drift")
            self._is_failing = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="drift reports")

    async def close(self) -> None:
        """Deliver what was seen since the last report, or give up after 2 s, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            while await self._report(_CLOSE_TIMEOUT_S):  # one report may wait already, and one follows
                pass

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._report(_TIMEOUT_S)

    async def _report(self, timeout_s: float) -> bool:
        """Deliver one report. Return False if there is nothing to report, or if it could not be delivered."""
        if self._waiting is None:
            self._waiting = self._tally.take(self._name, self._number)
            if self._waiting is None:
                return False
            self._number += 1
        try:
            notices = await asyncio.wait_for(self._send(self._waiting), timeout_s)
        except (ServeAppError, TimeoutError) as exc:
            logger.debug("a report on drift is repeated later: %s", str(exc) or type(exc).__name__)
            return False
        except Exception as exc:  # Ray's errors of a node or of a controller that restarts
            logger.debug("a report on drift is repeated later: %s", type(exc).__name__)
            return False
        self._waiting = None
        for notice in notices:
            self._on_notice(notice)
        return True
