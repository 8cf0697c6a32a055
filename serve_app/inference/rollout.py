"""Roll out another model while a Detector keeps serving. This module uses plain asyncio and does not import Ray."""

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
_FOLDERS = re.compile(r"""(?<!\w)/(?:[^/\n:;'"]+/)+""")  # folder names may contain spaces


class Rollout:
    """The served model and its settings, which ``user_config`` can change without downtime.

    The new model loads in the background while the current one serves. A new change cancels an earlier change that is
    still loading. After a failed change, the current model and settings stay, and ``state`` gives the reason. The
    replaced model answers its accepted items, then frees its memory. All calls must come from one event loop.
    """

    def __init__(
        self,
        args: DetectorArgs,
        load: Callable[[DetectorArgs], Awaitable[ModelRunner]],
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        """Create a roll-out without a model. ``on_outcome`` is called at the end of each change that is not cancelled.

        ``load`` may raise ServeAppError.
        """
        self._deployed = args  # the arguments of the deployment
        self._serving = args  # the arguments, overridden by the applied user_config
        self._load = load
        self._on_outcome = on_outcome
        self._user_config: Any = None  # the newest ``user_config``
        self._runner: ModelRunner | None = None
        self._change: asyncio.Task[None] | None = None
        self._refused_change = ""
        self._retiring: dict[ModelRunner, asyncio.Task[None]] = {}

    @property
    def runner(self) -> ModelRunner:
        """The current model. The model exists once the first call of ``configure`` has returned."""
        assert self._runner is not None
        return self._runner

    @property
    def is_hung(self) -> bool:
        """Whether the engine of the current model, or of a model that is being retired, is hung."""
        return any(runner.is_hung for runner in (self.runner, *self._retiring))

    def state(self) -> DetectorState:
        """Return the current model, whether a change is in progress, and why the last change was refused."""
        is_changing = self._change is not None and not self._change.done()
        return DetectorState(self.runner.info, is_changing, self._refused_change)

    async def configure(self, user_config: Any) -> None:
        """Apply ``user_config``, whose settings override the arguments.

        Only the first call waits until the model is loaded, and only the first call may raise, because a Detector
        cannot start without a model. If the first ``user_config`` cannot be applied, the Detector starts with its
        arguments alone. Otherwise, no new replica could start after all running replicas have refused a
        ``user_config``, and Ray Serve could not replace a replica that dies.
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
        """Stop every model. Waiting items fail with ReplicaGone."""
        if self._change is not None:
            self._change.cancel()
        for runner in (self._runner, *self._retiring):
            if runner is not None:
                await runner.close()

    async def _start(self, user_config: Any) -> None:
        try:
            args = self._deployed.with_user_config(user_config)
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
            args = self._deployed.with_user_config(user_config)
            if args.can_reuse_engine_of(self._serving):
                before.apply_settings(args.detect, args.batcher)
            else:
                self._runner = await self._load(args)
                self._runner.batcher.drops = before.batcher.drops  # the new model continues the counters of the old one
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
        logger.error("the change of the model was refused; the current model keeps serving", exc_info=error)
        self._refused_change = _without_folders(str(error)) if isinstance(error, ServeAppError) else _INTERNAL
        self._on_outcome("refused")


def _without_folders(text: str) -> str:
    """Remove the folders from paths in the text, because clients may read the text."""
    return _FOLDERS.sub("", text)
