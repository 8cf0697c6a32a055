"""The engines that run a model. Every engine follows the protocol below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from serve_app.models.engines.preparation import Preparation
from serve_app.types import EngineInfo, InputShape, Pixels

# All outputs of a model for one image. The modules in ``models.tasks`` describe their shapes.
RawOutput: TypeAlias = tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class ModelFile:
    """The file or folder of a model, and how an engine loads it."""

    path: Path
    name: str
    version: str  # see ``EngineInfo``
    input_shape: InputShape  # the largest input, if the file does not fix its size
    rectangular: bool  # also take rectangles, if the file does not fix the size


class Engine(Protocol):
    """A loaded model that is ready to infer."""

    info: EngineInfo
    concurrency: int  # how many calls of ``infer`` may run at once, each in its own thread
    takes_batches: bool  # whether one call with several frames may be faster than one call per frame

    @property
    def preparation(self) -> Preparation | None:
        """Says when a rectangle is being prepared. None if all shapes are prepared while the model is loaded.

        If an engine prepares a rectangle only when it is first needed, to warm it up earlier would waste memory. Such
        an engine also frees the rectangles that the checks at start have prepared: see ``load``.
        """

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[RawOutput]:
        """Return one raw output per frame, in order.

        All frames have the same shape, which is one of ``info.shapes``. They are uint8 BGR and may be read-only. The
        engine converts their colour order, scale and layout.

        ``alone``: no other call is running or waiting, so this call may use all cores. An output stays valid until the
        same thread calls ``infer`` again.
        """
