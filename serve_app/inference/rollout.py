"""Rolling out another model under a Detector that goes on serving. Plain asyncio: this module knows no Ray."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from serve_app.config import DetectorArgs
from serve_app.errors import ServeAppError
from serve_app.inference.model_runner import ModelRunner
from serve_app.types import DetectorState

logger = logging.getLogger(__name__)

Outcome = Literal["made", "refused"]
_INTERNAL = "an internal error: see the log"
_FOLDERS = re.compile(r"""(?<!\w)/(?:[^/\n:;'"]+/)+""")  # their names may contain spaces


class Rollout:
    """Serves one model, and changes to what ``user_config`` says without downtime.

    A change is loaded in the background while the present model serves. The newest change wins: one that is still being
    loaded is cancelled. A change that fails leaves everything as it was, and ``state`` says why. The model that was
    replaced answers what it has accepted, then frees its memory. To be used from one event loop.
    """

    def __init__(
        self,
        args: DetectorArgs,
        load: Callable[[DetectorArgs], Awaitable[ModelRunner]],
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        """``load`` raises ServeAppError; ``on_outcome`` is called at the end of each change but a cancelled one."""
        self._deployed = args  # as the deployment was bound
        self._serving = args  # as it is now
        self._load = load
        self._on_outcome = on_outcome
        self._user_config: Any = None  # the newest one
        self._runner: ModelRunner | None = None
        self._change: asyncio.Task[None] | None = None
        self._refused_change = ""
        self._retiring: dict[ModelRunner, asyncio.Task[None]] = {}

    @property
    def runner(self) -> ModelRunner:
        """The model that serves now. Only ``configure`` may be called before there is one."""
        assert self._runner is not None
        return self._runner

    @property
    def is_wedged(self) -> bool:
        """Whether the engine of the present model, or of one that is being retired, hangs."""
        return any(runner.is_wedged for runner in (self.runner, *self._retiring))

    def state(self) -> DetectorState:
        """Return what is served, and how far the change to another model is."""
        is_changing = self._change is not None and not self._change.done()
        return DetectorState(self.runner.info, is_changing, self._refused_change)

    async def configure(self, user_config: Any) -> None:
        """Serve what ``user_config`` says instead of the arguments, both of one form.

        Only the first model is waited for, and only that may raise: a Detector has to start with some model. If it
        cannot be changed to the ``user_config``, it starts with its arguments, as the replicas did that were running
        when that change was refused: a Detector that dies needs a successor.
        """
        if self._runner is None:
            self._user_config = user_config
            await self._start(user_config)
        elif user_config != self._user_config:
            self._user_config = user_config
            if self._change is not None:
                self._change.cancel()
            self._change = asyncio.create_task(self._change_to(user_config))

    async def close(self) -> None:
        """Stop every model; what waits for them is told that this replica is going away."""
        if self._change is not None:
            self._change.cancel()
        for runner in (self._runner, *self._retiring):
            if runner is not None:
                await runner.close()

    async def _start(self, user_config: Any) -> None:
        try:
            args = self._deployed.changed_by(user_config)
            self._runner = await self._load(args)
        except Exception as exc:
            if not user_config:
                raise
            self._refuse(exc)
            args = self._deployed
            self._runner = await self._load(args)
        self._serving = args

    async def _change_to(self, user_config: Any) -> None:
        before = self.runner
        try:
            args = self._deployed.changed_by(user_config)
            if args.has_engine_of(self._serving):
                before.use(args.detect, args.batcher)
            else:
                self._runner = await self._load(args)
                self._runner.batcher.drops = before.batcher.drops  # the counters continue
                self._retiring[before] = asyncio.create_task(self._retire(before))
        except Exception as exc:
            self._refuse(exc)
        else:
            self._serving, self._refused_change = args, ""
            self._on_outcome("made")

    async def _retire(self, runner: ModelRunner) -> None:
        try:
            await runner.drain()
        finally:
            del self._retiring[runner]

    def _refuse(self, error: Exception) -> None:
        logger.error("the change of the model is refused", exc_info=error)
        self._refused_change = _without_folders(str(error)) if isinstance(error, ServeAppError) else _INTERNAL
        self._on_outcome("refused")


def _without_folders(text: str) -> str:
    """Return the text without the folders of its paths: clients may read it."""
    return _FOLDERS.sub("", text)
